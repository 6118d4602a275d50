"""The phrases of a prompt: where they stand, which tokens they are, and where in the picture they belong."""
