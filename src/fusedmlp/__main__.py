"""``python -m fusedmlp``: the same as the ``fusedmlp`` command."""

from fusedmlp.cli import main

if __name__ == "__main__":
    main()
