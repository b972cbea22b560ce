"""`python -m millrace_client`: the millrace command."""

from millrace_client.command.main import main

main()
