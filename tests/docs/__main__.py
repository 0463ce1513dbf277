"""`python -m tests.docs`: write the generated parts of the docs again."""

from tests.docs import write

if __name__ == "__main__":
    changed = write()
    print("\n".join(f"wrote {name}" for name in changed) if changed else "the docs are current")
