"""The verified copy: `python -m services.ledger`."""

from mesh.bootstrap import run_ledger

if __name__ == "__main__":
    run_ledger()
