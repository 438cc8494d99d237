"""What is asked of a study and what is said back: the words that every other room shares."""
