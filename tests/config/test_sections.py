"""What a configuration tells others."""

from __future__ import annotations

import pytest

from flowvae.config import DataSection


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("mnist", "mnist"),
        ("/home/alice/private/people.csv", "people.csv"),
        ("C:\\Users\\alice\\people.csv", "people.csv"),
        ("/", "data"),
        ("hf:mnist", "hf:mnist"),
        ("hf:ylecun/mnist", "hf:ylecun/mnist"),
        ("hf:nyu-mll/glue:sst2", "hf:nyu-mll/glue:sst2"),
        # The library of the hub also takes folders.
        ("hf:/home/alice/private/people", "people"),
        ("hf:/home/alice/private/people/:all", ":all"),
        ("hf:~alice/people", "people"),
        ("hf:./alice/people", "people"),
        ("hf:../people", "people"),
        ("hf:alice/private/people", "people"),
        ("hf:C:\\Users\\alice\\people", "people"),
        ("hf:alice/people\n/home/alice", "alice"),
        ("hf:", "data"),
    ],
)
def test_of_a_path_the_last_part_is_told(source, told):
    assert DataSection(source=source).public_source == told
