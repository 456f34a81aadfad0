"""What is inside of files, here or elsewhere, told from their headers."""
