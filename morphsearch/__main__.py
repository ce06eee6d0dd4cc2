"""``python -m morphsearch``, for where the script is not on the path."""

from morphsearch.cli.group import main

main()
