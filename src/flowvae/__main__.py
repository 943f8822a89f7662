"""``python -m flowvae``."""

from flowvae.cli import main

if __name__ == "__main__":
    main()
