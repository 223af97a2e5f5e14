"""``python -m glinthawk``."""

from glinthawk.cli.main import main

if __name__ == "__main__":
    main()
