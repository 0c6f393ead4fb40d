"""`python -m trainer_classification.models`: parameters and multiply-adds of all networks, for docs/models.md."""

from trainer_classification.models.catalogue import table

if __name__ == "__main__":
    print(table())
