"""The shields around the program: what it reads and writes is protected without its knowing."""
