"""The ``fusedmlp`` command: one file per subcommand, put together in app.py."""

from fusedmlp.cli.app import main as main
