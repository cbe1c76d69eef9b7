"""The stages, each one `run(config, runtime) -> StageResult`. A stage never imports a stage."""
