"""The larger commands of the command line. They import no torch until they run."""
