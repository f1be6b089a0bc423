"""The figures of the moment, worked out by hand."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from raysb.report.figures import WINDOW_S, Figures, pack


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def text(figures: Figures, width: int = 200) -> str:
    return "\n".join(row.plain for row in figures.rows(width))


def record(seconds: float, scored: float, **more: Any) -> dict[str, Any]:
    return {"wall_time_s": seconds, "num_scored": scored, "epoch": 0.5, **more}


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    """100 rows/s for 30 s, then 1,000 rows/s: after 10 more seconds only the latter is seen."""
    figures = Figures()
    for second in range(31):
        figures.update(record(second, 100 * second))
    assert "scored 100/s" in text(figures)
    for second in range(31, 36):
        figures.update(record(second, 3_000 + 1_000 * (second - 30)))
    assert f"scored {(5 * 100 + 5 * 1_000) / WINDOW_S:,.0f}/s" in text(figures)
    for second in range(36, 41):
        figures.update(record(second, 3_000 + 1_000 * (second - 30)))
    assert "scored 1,000/s" in text(figures)


def test_rates_of_lines_far_apart_are_those_between_the_last_two() -> None:
    figures = Figures()
    for seconds, scored in ((0, 0), (60, 600), (120, 6_600)):
        figures.update(record(seconds, scored))
    assert "scored 100/s" in text(figures)


def test_after_a_restart_rates_are_those_of_what_came_since() -> None:
    """Training went back to 50 s, the clock of its last checkpoint."""
    figures = Figures()
    for second in range(200):
        figures.update(record(second, 100 * second))
    for second in (50, 51, 52):
        figures.update(record(second, 5_000 + 30 * (second - 50)))
    assert "scored 30/s" in text(figures)


def test_the_time_left_counts_down_between_two_lines_and_not_below_nothing() -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.update(record(10, 10, left_s=83.0))
    assert "1:23 left" in text(figures)
    clock.now += 13
    assert "1:10 left" in text(figures)
    clock.now += 100
    assert "0:00 left" in text(figures)


def test_what_is_not_known_is_left_out() -> None:
    figures = Figures()
    figures.update({"wall_time_s": 0.0, "epoch": 0.0, "age": None, "score/loss": float("nan")})
    assert text(figures) == "epoch 0.00"


def test_a_terminal_without_unicode_gets_ascii() -> None:
    figures = Figures(ascii=True)
    figures.update(record(10, 10, share=0.5, left_s=10.0))
    assert text(figures).isascii()
    assert "##########---------- 50%" in text(figures)
    figures = Figures()
    figures.update(record(10, 10, share=0.25))
    assert "━" * 5 + "─" * 15 + " 25%" in text(figures)


@given(
    st.lists(st.text("abc ", min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(1, 100),
)
def test_rows_keep_the_order_of_their_cells_and_the_width(cells: list[str], width: int) -> None:
    rows = pack([Text(cell) for cell in cells], width, " · ")
    assert all(row.cell_len <= width for row in rows)
    if all(len(cell) <= width for cell in cells):
        assert " · ".join(row.plain for row in rows) == " · ".join(cells)
        assert all(  # no row could have taken the first cell of the next
            rows[i].cell_len + 3 + len(rows[i + 1].plain.split(" · ")[0]) > width
            for i in range(len(rows) - 1)
        )


def test_the_gpu_of_each_process_has_its_figure_and_many_have_their_range() -> None:
    def gpu(name: str, used: float, use: float) -> dict[str, float]:
        own = f"gpu/{name}"
        return {
            f"{own}memory_used": used * 1e9,
            f"{own}memory_total": 80e9,
            f"{own}utilization": use,
        }

    figures = Figures()
    figures.update(record(1, 1) | gpu("", 12.3, 0.87))
    assert text(figures).endswith("GPU 12.3/80 GB, 87%")
    figures.update(record(2, 2) | gpu("", 12.3, 0.87) | gpu("scorer0/", 4, 0.5))
    assert text(figures).endswith("GPU worker0 12.3/80 GB, 87% · GPU scorer0 4.0/80 GB, 50%")
    figures.update(record(3, 3) | gpu("scorer0/", 4, 0.5))
    assert text(figures).endswith("GPU scorer0 4.0/80 GB, 50%")
    many = {}
    for number in range(5):
        many |= gpu(f"worker{number}/", 10 + number, number / 10)
    figures.update(record(4, 4) | many)
    assert text(figures).endswith("5 GPU processes 10.0 to 14.0 GB, 0% to 40%")
