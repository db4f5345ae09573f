"""`python -m tests.parity FIXTURE.npz`: this library against numbers of the reference."""
