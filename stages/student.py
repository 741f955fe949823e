"""student: where export.student names a backbone, students of it, each taught by the fold models; otherwise next to nothing."""

from strokect.errors import run_stage
from strokect.files import atomic_folder, write_json
from strokect.params import load_params


def main() -> None:
    """Write models/student/: student.json, and with a student <k>/ for each fold, all/ and release/."""
    params = load_params()
    with atomic_folder("models/student") as folder:
        if params.export.student == "none":
            write_json(folder / "student.json", {"backbone": None})
            print("student: export.student is none; the fold models ship")
            return
        from strokect.distillation import write_students  # here: without a student nothing needs torch, which takes seconds

        write_students(folder, params)
    print(f"student: one {params.export.student} ships; its out-of-fold students are judged by tune_threshold")


if __name__ == "__main__":
    run_stage(main)
