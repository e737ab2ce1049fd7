"""`python -m launch`: the same as `megatron-seed`."""

from launch.cli import main

if __name__ == "__main__":
    main()
