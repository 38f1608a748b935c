"""`python -m vqa_cli` is the same as `vqa`."""

from vqa_cli.main import main

main()
