"""What this plugin adds to LoongForge. Named by the entry point in pyproject.toml; imports no torch."""

from loongforge_core import ComponentSpec, DatasetSpec, hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="sensor",
            summary="strided convolutions over sampled waveforms of any length",
            modalities=("waveform",),
            config="loongforge_sensor.sensor.config:SensorConfig",
            model="loongforge_sensor.sensor.model:SensorEncoder",
            processor="loongforge_sensor.sensor.processor:SensorProcessor",
        )
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_sensor.configs"]


@hookimpl
def loongforge_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="waveforms",
            summary="synthetic waveforms: which shape has it, and how many periods?",
            prepare="loongforge_sensor.waveforms:prepare",
        )
    ]
