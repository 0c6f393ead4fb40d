"""Print the parameters and multiply-adds of all networks, for docs/models.md.

Usage: `python -m trainer_classification.models`.
"""

from trainer_classification.models.catalogue import table

if __name__ == "__main__":
    print(table())
