"""The recipe of an image, as text."""

from __future__ import annotations

from dataclasses import replace

from tidegate.serving.image.containerfile import Recipe, text, trainer_text

CPU = Recipe("python:3.11-slim", "3.11", "r-1f2e3d4c5b", {"dev.tidegate.release": "r-1f2e3d4c5b"})


def stages(recipe: Recipe) -> tuple[str, str]:
    """The build stage and the final one."""
    whole = text(recipe)
    build, final = whole.split(f"\nFROM {recipe.base}\n")
    return build, final


def test_the_final_stage_installs_and_compiles_nothing() -> None:
    """pip, the index and the authorities are met in the build stage alone."""
    build, final = stages(CPU)
    assert "pip --disable-pip-version-check install" in build
    assert "--mount=type=secret,id=index" in build
    assert [word for word in ("bin/pip --", "secret", "compileall", "apt-get", "venv") if word in final] == []


def test_it_runs_as_a_number_with_a_health_check() -> None:
    """Kubernetes' runAsNonRoot refuses names."""
    final = stages(CPU)[1]
    assert "USER 10001:10001" in final
    assert 'HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python3", "-m"' in final


def test_what_models_share_lies_below_what_they_do_not() -> None:
    """The libraries first, then tidegate, then the model."""
    copies = [line.split()[-1] for line in stages(CPU)[1].splitlines() if line.startswith("COPY")]
    assert copies == ["/opt/tidegate/lib", "/opt/tidegate/app", "/opt/tidegate/bundle"]


def test_a_gpu_image_adds_one_layer_below_all_others() -> None:
    """NVIDIA's wheels, which every model of a GPU shares; the rest is as for a processor."""
    final = stages(Recipe("python:3.11-slim", "3.11", "r-1", shared=True))[1]
    copies = [line.split()[-1] for line in final.splitlines() if line.startswith("COPY")]
    assert copies == ["/opt/tidegate/gpu", "/opt/tidegate/lib", "/opt/tidegate/app", "/opt/tidegate/bundle"]
    assert 'PYTHONPATH="/opt/tidegate/app:/opt/tidegate/lib:/opt/tidegate/gpu"' in final


def test_system_packages_leave_no_lists_and_no_logs() -> None:
    """Logs hold times, which would make every digest another one."""
    final = stages(Recipe("python:3.11-slim", "3.11", "r-1", system_packages=("libgomp1", "libfoo")))[1]
    assert "apt-get install --yes --no-install-recommends libfoo libgomp1 && " in final
    assert "rm -rf /var/lib/apt/lists/*" in final


def test_a_label_is_quoted() -> None:
    """A quote or a dollar sign in a model's name is text, and never a command or a variable."""
    assert r'LABEL x="a\"b\$c"' in stages(Recipe("b", "3.11", "r-1", {"x": 'a"b$c'}))[1]


def test_a_trainer_has_git_and_every_part_of_tidegate_but_no_secret() -> None:
    """It runs as the same number; what met the index stays in the build stage."""
    build, final = trainer_text(CPU).split(f"\nFROM {CPU.base}\n")
    assert "--mount=type=secret,id=index" in build
    assert "secret" not in final
    assert "command -v git" in final
    assert "USER 10001:10001" in final
    assert final.rstrip().endswith('ENTRYPOINT ["tidegate"]')
    assert "NVIDIA" not in final


def test_a_trainer_for_gpus_asks_the_runtime_for_them() -> None:
    """The libraries come with the training's own packages."""
    assert 'NVIDIA_VISIBLE_DEVICES="all"' in trainer_text(replace(CPU, shared=True))
