"""So that ``python -m scmf`` and ``accelerate launch -m scmf train …`` work."""

from scmf.cli.main import main

if __name__ == "__main__":
    main()
