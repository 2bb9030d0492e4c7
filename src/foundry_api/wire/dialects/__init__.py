"""What each generation of Foundry Local says and wants, one module each."""
