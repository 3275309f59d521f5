"""Critics: who screens candidates."""
