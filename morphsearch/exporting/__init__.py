"""Files that need nothing of ours: source, ONNX, programs of ``torch.export``, plain widths."""

from morphsearch.exporting.api import Exported, export

__all__ = ["Exported", "export"]
