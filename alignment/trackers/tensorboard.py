"""TensorBoard: one folder of events for a run and its resumptions, tables as text."""

import json
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from alignment.trackers.integrations import IntegrationTracker, as_cell


class TensorBoardTracker(IntegrationTracker):
    """Drives transformers' TensorBoardCallback."""

    def resume(self, *, step: int) -> None:
        """Write to the folder of the run; steps after a checkpoint that is resumed are hidden."""
        folder = self.callback.logging_dir or self.folder / "runs" / self.run.tracker_id
        # Also the first start is marked: TensorBoard hides nothing before the second mark.
        purge_step = step + 1 if step else 0
        self.callback.tb_writer = SummaryWriter(str(folder), purge_step=purge_step)
        super().resume(step=step)

    def set_config(self, config: dict[str, Any]) -> None:
        """Show the lineage as text."""
        text = json.dumps(config, ensure_ascii=False, indent=2)
        self.callback.tb_writer.add_text("lineage", f"```json\n{text}\n```")

    def log_table(self, name: str, rows: list[dict[str, Any]], *, step: int) -> None:
        """Show the rows as a table in Markdown."""
        columns = list(rows[0])
        lines = [columns, ["---"] * len(columns)]
        lines += [[_escape(row[column]) for column in columns] for row in rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        # The step that follows logs the numbers of these rows; a resumed run repeats both.
        self.callback.tb_writer.add_text(name, text, step + 1)


def _escape(value: Any) -> str:
    """A value in a cell of Markdown, which ends at a bar or a new line."""
    return str(as_cell(value)).replace("|", "\\|").replace("\n", "<br>")
