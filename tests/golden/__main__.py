"""Writes the golden scripts as they are rendered now, and removes those that no longer are."""

from tests.golden import FOLDER, golden_scripts

if __name__ == "__main__":
    scripts = golden_scripts()
    for old in FOLDER.glob("*.sbatch"):
        if old.name not in scripts:
            old.unlink()
    for name, text in scripts.items():
        (FOLDER / name).write_text(text)
    print(f"{len(scripts)} scripts written to {FOLDER}")
