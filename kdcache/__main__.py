"""`python -m kdcache`, and what the DeepSpeed launcher starts."""

from kdcache.cli import main

if __name__ == "__main__":
    main()
