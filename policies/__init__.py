"""The choices: one policy a file. They import `proxy`, never the reverse."""
