"""A file of questions is run through plans in the browser, as `ponder compare` runs it, and may be stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.console.stage import Stage

QUESTIONS = [{"question": f"The answer is {n}.", "answer": str(n % 4)} for n in range(6)]
"""The model repeats what it is asked: four of these are answered right."""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "some <b>questions.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    return path


def test_questions_are_asked_in_every_plan_and_what_is_right_is_plotted(stage: Stage, questions: Path) -> None:
    before = stage.ask("GET", "/v1/usage")["data"][0]["requests"]
    with stage.visit("/evaluate") as page:
        page.click("button:has-text('Run')")
        page.wait_for_selector("[role=alert]:has-text('Give a file of questions first')")
        with page.expect_file_chooser() as choosing:
            page.click("button:has-text('Choose a file')")
        choosing.value.set_files(questions)
        page.wait_for_selector("[role=status]:has-text('6 questions')")
        page.fill("input[aria-label^='Strategies']", "direct majority_vote:n=3")
        page.fill("input[aria-label^='Budgets']", "400")
        page.click("button:has-text('Run')")
        page.wait_for_selector("caption:has-text('Plans, with 95 % intervals')")
        assert "12 of 12 requests answered" in page.inner_text("main")
        lines = page.locator("table:has(caption:has-text('Plans')) tbody tr").all_inner_texts()
        assert [line.split("\t")[1] for line in lines] == ["direct", "majority_vote:n=3"]
        assert all("66.7 %" in line for line in lines)
        assert page.locator(".plot circle").count() == 4
        assert stage.ask("GET", "/v1/usage")["data"][0]["requests"] == before + 12


def test_what_cannot_be_asked_is_said(stage: Stage, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"nothing": 1}\n')
    program = {"task_id": "a/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"}
    programs = tmp_path / "programs.jsonl"
    programs.write_text(json.dumps(program) + "\n")
    with stage.visit("/evaluate") as page:
        page.set_input_files("input[type=file]", wrong)
        page.wait_for_selector("[role=status]:has-text('the file, line 1')")
        page.set_input_files("input[type=file]", programs)
        page.wait_for_selector("[role=status]:has-text('this page runs no programs')")


def test_a_run_that_is_stopped_shows_what_it_has(stage: Stage, questions: Path) -> None:
    with stage.visit("/evaluate") as page:
        page.set_input_files("input[type=file]", questions)
        page.wait_for_selector("[role=status]:has-text('6 questions')")
        page.fill("input[aria-label^='Strategies']", "majority_vote:n=16 best_of_n:n=16")
        page.fill("input[aria-label^='Budgets']", "4000 5000")
        page.fill("input[aria-label='Times each is asked']", "16")
        page.fill("input[aria-label='Requests at the same time']", "2")
        page.click("button:has-text('Run')")
        page.wait_for_selector("p:has-text('left')")
        page.click("button:has-text('Stop')")
        page.wait_for_selector("p:has-text('It was stopped')")
        page.wait_for_selector("caption:has-text('Plans, with 95 % intervals')")
