"""What looks at a picture for the phrases of its prompt, and the loop that asks again for what is missing."""
