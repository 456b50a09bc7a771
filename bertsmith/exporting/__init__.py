"""A model as a file that other runtimes run."""

from bertsmith.exporting.export import Exported, export_folder

__all__ = ["Exported", "export_folder"]
