"""`python -m deepviz`."""

from deepviz.cli import main

if __name__ == "__main__":
    main()
