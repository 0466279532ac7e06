.venv/bin/kumomori: pyproject.toml
	echo placeholder
