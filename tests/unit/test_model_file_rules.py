"""Model files: what is said of bad ones, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.components.diagnostics import ModelFileError
from platform_assets.components.loading import SHIPPED, read_models
from platform_assets.components.model_file import read_model
from tests.support.model_files import FULL, MINIMAL, refused, write

REFUSED = [
    # of MINIMAL: what stands there, what is written instead, line, field, part of the message
    ("  task: binary", "  task: binary\n  colour: red", 12, "colour", "not a known field"),
    ("{file: p", "{fil: p", 3, "source.fil", "Did you mean `file`?"),
    ("boolean, null", "boolean, nul", 8, "features.smoker.nulable", "Did you mean `nullable`"),
    ("  task: binary\n", "", 2, "task", "is missing: What is predicted"),
    ("{metric_floor: 0.6}", "{}", 12, "gates.metric_floor", "is missing"),
    ("{metric_floor: 0.6}", "", 12, "gates", "has no value"),
    ("0.6", '"0.6"', 12, "gates.metric_floor", "must be a number, not '0.6'"),
    ("0.6", "true", 12, "gates.metric_floor", "must be a number, not true"),
    ("0.6", ".nan", 12, "gates.metric_floor", "must be a finite number"),
    ("age: integer", "age: int", 6, "features.age.type", "must be 'number', 'double', 'integer'"),
    ("nullable: true", "nullable: 1", 8, "features.smoker.nullable", "must be true or false"),
    ("age: integer", "no: integer", 6, "features.False", "put it in quotes"),
    ("age: integer", "age: {name: x}", 5, "features", "the key is the name"),
    ("task: binary", "task: bin", 11, "task", "must be 'binary', 'multiclass' or 'regression'"),
    ("type: boolean}", "type: float}", 10, "target.type", "must be 'text', 'integer'"),
    ("  task: binary", "  task: binary\n  candidates: []", 12, "candidates", "at least one"),
    ("  task: binary", "  task: binary\n  ttl: 24h", 12, "ttl", "needs `event_timestamp`"),
    ("  task: binary", "  task: binary\n  ttl: 24", 12, "ttl", "must be text, not 24"),
    ("  task: binary", "  task: binary\n  ttl: 24 hours", 12, "ttl", "write numbers with units"),
    ("  task: binary", "  task: binary\n  ttl: 0h", 12, "ttl", "longer than zero"),
    ("  task: binary", "  task: binary\n  ttl: 9999999999999d", 12, "ttl", "at most 100 years"),
    ("  task: binary", "  task: binary\n  owners: [wards]", 12, "owners[0]", "team:<name>"),
    ("  task: binary", "  task: binary\n  tags: {a b: c}", 12, "tags.a b", "63 letters"),
    ("  task: binary", "  task: binary\n  task: regression", 12, "task", "is given twice"),
    # names
    ("  task: binary", "  task: binary\n  model_name: ../x", 12, "model_name", "ASCII letter"),
    ("  task: binary", "  task: binary\n  model_name: a/b", 12, "model_name", "ASCII letter"),
    ("  task: binary", "  task: binary\n  model_name: 1st", 12, "model_name", "ASCII letter"),
    ("  task: binary", "  task: binary\n  model_name: a-b", 12, "model_name", "underscores"),
    ("  task: binary", "  task: binary\n  model_name: ''", 12, "model_name", "ASCII letter"),
    (
        "  task: binary",
        "  task: binary\n  model_name: c\u0430rs",
        12,
        "model_name",
        "CYRILLIC SMALL",
    ),
    # sources
    ("{file: patients.csv}", "{}", 3, "source", "is empty: give exactly one"),
    ("{file: patients.csv}", "{file: x, dataset: vega.cars}", 3, "source", "has file and dataset"),
    ("patients.csv", "s3://bucket/x", 3, "source.file", "is an address"),
    ("patients.csv", "'{{ env.X }}/x'", 3, "source.file", "write ${SOURCE_NAME}"),
    ("{file: patients.csv}", "{dataset: cars}", 3, "source.dataset", "vega.<name>"),
    ("{file: patients.csv}", "{sql: {url: 'db', query: x}}", 3, "source.sql.url", "dialect"),
    (
        "{file: patients.csv}",
        "{sql: {url: 'postgresql://me:secret@db/x', query: x}}",
        3,
        "source.sql.url",
        "holds a password",
    ),
    (
        "{file: patients.csv}",
        "{sql: {url: 'a://me:${SOURCE_PW}@db/x?sslpassword=secret', query: x}}",
        3,
        "source.sql.url",
        "holds a password",
    ),
    (
        "{file: patients.csv}",
        "{sql: {url: 'a+b:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret', query: x}}",
        3,
        "source.sql.url",
        "holds a password",
    ),
    ("{file: patients.csv}", "{sql: {url: 'a://b', query: ' '}}", 3, "source.sql.query", "empty"),
    ("patients.csv", "' '", 3, "source.file", "is not a path"),
    ("patients.csv", '"${TOKEN}.csv"', 3, "source.file", "TOKEN: a source may only use"),
    (
        "{file: patients.csv}",
        "{sql: {url: 'a://me:${PW}@b', query: x}}",
        3,
        "source.sql.url",
        "PW: a source may only use variables named SOURCE_",
    ),
    ("patients.csv}", "x.csv, separator: ';;'}", 3, "source.separator", "at most 1"),
    ("patients.csv}", "x.csv, separator: '\"'}", 3, "source.separator", "quotation mark"),
    (
        "{file: patients.csv}",
        "{dataset: vega.cars, separator: ';'}",
        3,
        "source.separator",
        "to a file",
    ),
    # key and time
    (
        "  task: binary",
        "  task: binary\n  event_timestamp: {column: at time}",
        12,
        "event_timestamp.column",
        "under `from`",
    ),
    ("{column: patient_id}", "{}", 4, "join_key", "exactly one"),
    ("{column: patient_id}", "{row_number: n, type: text}", 4, "join_key.type", "are integers"),
    ("{column: patient_id}", "{column: patient id}", 4, "join_key.column", "under `from`"),
    (
        "  task: binary",
        "  task: binary\n  event_timestamp: {column: at, timezone: Mars}",
        12,
        "event_timestamp.timezone",
        "not a time zone",
    ),
    (
        "  task: binary",
        "  task: binary\n  event_timestamp: {column: patient_id}",
        12,
        "event_timestamp.column",
        "is the join key",
    ),
    # features
    ("age: integer", "readmitted: integer", 6, "features.readmitted", "is the target"),
    ("age: integer", "patient_id: integer", 6, "features.patient_id", "is the join key"),
    ("age: integer", "Ward: integer", 7, "features.ward", "listed twice, in any case"),
    ("age: integer", "Patient_ID: integer", 6, "features.Patient_ID", "is the join key"),
    ("age: integer", "Readmitted: integer", 6, "features.Readmitted", "is the target"),
    ("age: integer", "age: {from: readmitted}", 6, "features.age", "is the target"),
    ("age: integer", "age: {from: patient_id}", 6, "features.age", "is the join key"),
    ("column: readmitted", "column: back, from: age", 6, "features.age", "is the target"),
    ("{column: patient_id}", "{row_number: n, from: x}", 4, "join_key.from", "belongs to `column`"),
    ("age: integer", "age: {from: 3}", 6, "features.age.from", "must be text"),
    ("age: integer", "entity_row_id: text", 6, "features.entity_row_id", "Feast uses"),
    ("age: integer", "RN: integer", 6, "features.RN", "Feast uses"),
    (
        "age: integer",
        "event_expire_timestamp: integer",
        6,
        "features.event_expire_timestamp",
        "Feast uses",
    ),
    ("age: integer", "speed_y: integer", 6, "features.speed_y", "columns that end in _y"),
    (
        "  task: binary",
        "  task: binary\n  event_timestamp: {column: at_y}",
        12,
        "event_timestamp.column",
        "columns that end in _y",
    ),
    ("column: readmitted", "column: Patient_id", 10, "target.column", "is the join key"),
    ("column: readmitted", "column: entity_row_id", 10, "target.column", "Feast uses"),
    ("age: integer", "label: integer", 6, "features.label", "the platform or Feast uses"),
    ("age: integer", "label_true: integer", 6, "features.label_true", "under `from`"),
    ("age: integer", "prediction_x: integer", 6, "features.prediction_x", "under `from`"),
    ("age: integer", "probability_0: integer", 6, "features.probability_0", "under `from`"),
    ("age: integer", "sample_id: integer", 6, "features.sample_id", "under `from`"),
    ("age: integer", "event_timestamp: text", 6, "features.event_timestamp", "under `from`"),
    ("age: integer", "age in years: integer", 6, "features.age in years", "ASCII letter"),
    ("age: integer", "age: {minimum: 9, maximum: 1}", 6, "features.age.minimum", "greater than"),
    ("ward: text", "ward: {type: text, minimum: 1}", 7, "features.ward.minimum", "only numbers"),
    ("boolean, nullable", "boolean, maximum: 1, nullable", 8, "features.smoker.maximum", "range"),
    # target and task
    ("binary", "regression", 10, "target.type", "predicts a number, not boolean"),
    ("binary", "multiclass", 11, "task", "write task: binary"),
    ("type: boolean}", "type: number}", 10, "target.type", "the task to regression"),
    ("type: boolean}", "classes: [a, b, c]}", 10, "target.classes", "write task: multiclass"),
    ("type: boolean}", "classes: [a]}", 10, "target.classes", "list both"),
    ("type: boolean}", "classes: [a, a]}", 10, "target.classes[1]", "listed twice"),
    ("type: boolean}", "classes: [a, '']}", 10, "target.classes[1]", "empty text"),
    ("type: boolean}", "type: text, classes: [yes, no]}", 10, "target.classes[0]", "in quotes"),
    ("type: boolean}", "classes: [0, true]}", 10, "target.classes[1]", "is not integer"),
    ("type: boolean}", "class_names: [a, b]}", 10, "target.class_names", "list the classes"),
    ("column: readmitted", "column: patient_id", 10, "target.column", "is the join key"),
    ("column: readmitted", "column: ''", 10, "target.column", "not the name of a column"),
    ("column: readmitted", "column: event_timestamp", 10, "target.column", "under `from`"),
    (
        "  task: binary",
        "  task: binary\n  event_timestamp: {column: readmitted}",
        10,
        "target.column",
        "is the event timestamp",
    ),
    ("type: boolean}", "classes: [0, 9223372036854775808]}", 10, "target.classes[1]", "64 bits"),
    (
        "type: boolean}",
        "classes: [a, b], class_names: [x, x]}",
        10,
        "target.class_names[1]",
        "two classes",
    ),
    (
        "type: boolean}",
        'classes: [0, 1], class_names: ["", x]}',
        10,
        "target.class_names[0]",
        "empty text",
    ),
    # candidates, evaluation, gates, serving, automation
    ("  task: binary", "  task: binary\n  candidates: svm", 12, "candidates[0].estimator", "known"),
    (
        "  task: binary",
        "  task: binary\n  candidates:\n    - estimator: ridge\n      grid: {alpha: [1]}",
        13,
        "candidates[0].estimator",
        "not an estimator for binary",
    ),
    ("  task: binary", "  task: binary\n  candidates: [{}]", 12, "candidates[0]", "exactly one"),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{function: x.y}]",
        12,
        "candidates[0].function",
        "package.module:name",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{function: 'x..y:z'}]",
        12,
        "candidates[0].function",
        "package.module:name",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{estimator: random_forest, function: 'x.y:z'}]",
        12,
        "candidates[0]",
        "exactly one",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{estimator: random_forest, pipeline: 'x.y:z'}]",
        12,
        "candidates[0]",
        "exactly one",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{pipeline: y}]",
        12,
        "candidates[0].pipeline",
        "package.module:name",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{pipeline: 'no_such_module:y'}]",
        12,
        "candidates[0]",
        "there is no module no_such_module",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{estimator: lightgbm, grid: {depth: 3}}]",
        12,
        "candidates[0]",
        "no parameter depth",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{estimator: ridge, ranges: {alpha: {low: 2, high: 9}}}]",
        12,
        "candidates[0].ranges",
        "are for a search",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n  candidates: [{estimator: lightgbm, grid: {max_depth: 3}}]",
        12,
        "search",
        "none of the candidates has parameters",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n"
        "  candidates: [{estimator: lightgbm, ranges: {depth: {low: 2, high: 9}}}]",
        13,
        "candidates[0]",
        "no parameter depth",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n  candidates: [{estimator: ridge}]",
        13,
        "candidates[0].estimator",
        "not an estimator for binary",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {trials: 0}",
        12,
        "search.trials",
        "greater than or equal to 1",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {minutes: 0}",
        12,
        "search.minutes",
        "greater than 0",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {trials: 1001}",
        12,
        "search.trials",
        "less than or equal to 1000",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n"
        "  candidates: {estimator: lightgbm, ranges: {max_depth: {low: 9, high: 2}}}",
        13,
        "candidates[0].ranges.max_depth.low",
        "is not below the high 2",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n"
        "  candidates: {estimator: lightgbm, ranges: {max_depth: {low: 0, high: 2, log: true}}}",
        13,
        "candidates[0].ranges.max_depth.low",
        "has no logarithm",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n"
        "  candidates: {estimator: lightgbm, ranges: {max_depth: {low: a, high: 2}}}",
        13,
        "candidates[0].ranges.max_depth.low",
        "must be a number, not 'a'",
    ),
    (
        "  task: binary",
        "  task: binary\n  search: {}\n"
        "  candidates: {function: 'x:y', grid: {n: 9}, ranges: {m: {low: 2, high: 3}}}",
        13,
        "candidates[0].ranges",
        "list it twice",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [{estimator: random_forest, grid: {max_depth: []}}]",
        12,
        "candidates[0].grid.max_depth",
        "to try",
    ),
    (
        "  task: binary",
        "  task: binary\n  candidates: [random_forest, random_forest]",
        12,
        "candidates[1]",
        "listed twice",
    ),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {metric: r2}",
        12,
        "evaluation.metric",
        "roc",
    ),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {metric: x}",
        12,
        "evaluation.metric",
        "not a met",
    ),
    ("  task: binary", "  task: binary\n  evaluation: {split: time}", 12, "evaluation.split", "by"),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {metric: roc_auc, quantile: 0.9}",
        12,
        "evaluation.quantile",
        "belongs to `metric: pinball`",
    ),
    ("  task: binary", "  task: binary\n  evaluation: {folds: 1}", 12, "evaluation.folds", "equal"),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {fraction: 1}",
        12,
        "evaluation.fraction",
        "1",
    ),
    ("0.6", "60", 12, "gates.metric_floor", "from 0 to 1"),
    # slices
    ("{metric_floor: 0.6}", "{metric_floor: 0.6, slices: [x]}", 12, "gates.slices[0]", "not a fea"),
    (
        "{metric_floor: 0.6}",
        "{metric_floor: 0.6, slices: [smoker, smoker]}",
        12,
        "gates.slices[1]",
        "listed twice",
    ),
    (
        "{metric_floor: 0.6}",
        "{metric_floor: 0.6, slices: [weight]}",
        12,
        "gates.slices[0]",
        "too many values for slices",
    ),
    # splits
    (
        "  task: binary",
        "  task: binary\n  evaluation: {split: entity_and_time}",
        12,
        "evaluation.split",
        "entity_and_time needs `event_timestamp`",
    ),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {gap: 7d}",
        12,
        "evaluation.gap",
        "belongs to a split by time",
    ),
    ("  task: binary", "  task: binary\n  evaluation: {gap: 7}", 12, "evaluation.gap", "text"),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {group: hospital}",
        12,
        "evaluation.group",
        "is not a feature",
    ),
    (
        "  task: binary",
        "  task: binary\n  evaluation: {group: smoker}",
        12,
        "evaluation.group",
        "is not text, or an integer or boolean without nulls",
    ),
    # texts
    *(
        (
            "age: integer",
            f"age: {{type: {kind}, {options}}}",
            6,
            f"features.age.{field}",
            said,
        )
        for kind, options, field, said in (
            ("integer", "min_frequency: 5", "min_frequency", "only texts have categories"),
            ("integer", "encoding: target", "encoding", "only texts have categories"),
            ("text", "min_frequency: 0", "min_frequency", "a number of rows from 1"),
            ("text", "min_frequency: 1.5", "min_frequency", "a number of rows from 1"),
            ("text", "min_frequency: few", "min_frequency", "a number of rows from 1"),
            ("text", "max_categories: 1", "max_categories", "greater than or equal to 2"),
            ("text", "encoding: mean", "encoding", "must be 'target'"),
            ("text", "encoding: target, max_categories: 5", "max_categories", "remove one"),
        )
    ),
    # probabilities and answers
    ("  task: binary", "  task: binary\n  threshold: {}", 12, "threshold", "exactly one of"),
    (
        "  task: binary",
        "  task: binary\n  threshold: {maximize: f1, recall_at_least: 0.5}",
        12,
        "threshold",
        "exactly one of",
    ),
    (
        "  task: binary",
        "  task: binary\n  threshold: {maximize: f2}",
        12,
        "threshold.maximize",
        "must be 'f1' or 'balanced_accuracy'",
    ),
    (
        "  task: binary",
        "  task: binary\n  threshold: {precision_at_least: 90}",
        12,
        "threshold.precision_at_least",
        "less than 1",
    ),
    ("  task: binary", "  task: binary\n  calibration: platt", 12, "calibration", "'sigmoid' or"),
    # weights
    ("  task: binary", "  task: binary\n  weight: age", 6, "features.age", "is the weight"),
    ("  task: binary", "  task: binary\n  weight: patient_id", 12, "weight.column", "join key"),
    ("  task: binary", "  task: binary\n  weight: 3", 12, "weight", "must be a mapping of fields"),
    (
        "  task: binary",
        f"  task: binary\n  class_weight: {{true: 1{'0' * 400}}}",
        12,
        "class_weight.True",
        "number above 0",
    ),
    (
        "  task: binary",
        "  task: binary\n"
        f"  candidates: {{function: 'x:y', ranges: {{m: {{low: 1, high: 1{'0' * 400}}}}}}}",
        12,
        "candidates[0].ranges.m.high",
        "finite",
    ),
    (
        "  task: binary",
        "  task: binary\n"
        "  candidates: {function: 'x:y', ranges: {m: {low: -1.7e+308, high: 1.7e+308}}}",
        12,
        "candidates[0].ranges.m.high",
        "too far from the low",
    ),
    ("  task: binary", "  task: binary\n  class_weight: even", 12, "class_weight", "balanced or"),
    (
        "  task: binary",
        "  task: binary\n  class_weight: {true: 0}",
        12,
        "class_weight.True",
        "write a number above 0",
    ),
    (
        "  task: binary",
        "  task: binary\n  class_weight: {yes please: 2}",
        12,
        "class_weight.yes please",
        "is not boolean",
    ),
    (
        "  task: binary",
        "  task: binary\n  class_weight: balanced\n  candidates: [linear_discriminant]",
        13,
        "candidates[0].estimator",
        "takes no weights",
    ),
    (
        "  task: binary",
        "  task: binary\n  class_weight: balanced\n"
        "  candidates: [{estimator: random_forest, grid: {class_weight: [balanced]}}]",
        13,
        "candidates[0].grid.class_weight",
        "remove one of the two",
    ),
    (
        "  task: binary",
        "  task: binary\n  serving: {retention: 9}",
        12,
        "serving.keep_versions",
        "at least as many as `retention`",
    ),
    (
        "  task: binary",
        "  task: binary\n  automation: {schedule: 61 * * * *}",
        12,
        "automation.schedule",
        "not a cron string",
    ),
    (
        "  task: binary",
        "  task: binary\n  automation: {drift_schedule: 0 0 30 2 *}",
        12,
        "automation.drift_schedule",
        "that ever fires",
    ),
    (
        "  task: binary",
        "  task: binary\n  automation: {on_drift: true}",
        12,
        "automation.on_drift",
        "needs `drift_schedule`",
    ),
    (
        "  task: binary",
        "  task: binary\n  automation: {freshness: 30s}",
        12,
        "automation.freshness",
        "a minute",
    ),
    (
        "  task: binary",
        "  task: binary\n  serving: {max_batch_size: 4096}",
        12,
        "serving.max_batch_size",
        "less than or equal to 1024",
    ),
    (
        "  task: binary",
        "  task: binary\n  automation: {schedule: 0 3 * * *, timezone: Mars/Olympus}",
        12,
        "automation.timezone",
        "not a time zone",
    ),
    ("patients.csv}", "x.csv, check_every: 5}", 3, "source.check_every", "must be text, not 5"),
    (
        "{file: patients.csv}",
        "{sql: {url: 'a://b', query: x, changed: ''}}",
        3,
        "source.sql.changed",
        "is empty",
    ),
    *(
        ("  task: binary", f"  task: binary\n  kubernetes: {{resources: {wrong}}}", 12, *expected)
        for wrong, *expected in (
            ("{train: {cpu: 1}}", "kubernetes.resources.train", "not an asset of a model"),
            ("{trainedmodel: {}}", "kubernetes.resources.trainedmodel", "mean `trained_model`"),
            (
                "{features: {cores: 1}}",
                "kubernetes.resources.features.cores",
                "here: cpu, mem",
            ),
            ("{features: {cpu: 2 cores}}", "kubernetes.resources.features.cpu", "500m"),
            ("{features: {cpu: 0}}", "kubernetes.resources.features.cpu", "not a number of cores"),
            ("{features: {cpu: -1}}", "kubernetes.resources.features.cpu", "not a number of cores"),
            ("{features: {memory: 512m}}", "kubernetes.resources.features.memory", "as 512Mi"),
            ("{features: {memory: '4'}}", "kubernetes.resources.features.memory", "its unit"),
            ("{features: {memory: 4}}", "kubernetes.resources.features.memory", "must be text"),
            ("{features: {cpu: true}}", "kubernetes.resources.features.cpu", "must be text"),
        )
    ),
    # around the attributes
    (
        "TabularModel",
        "TabularModle",
        1,
        "type",
        "must be 'platform_assets.components.TabularModel'",
    ),
    ("attributes:", "atributes:", 2, "atributes", "Did you mean `attributes`?"),
    ("{metric_floor: 0.6}", "{metric_floor: 0.6}\n---\ntype: x", 14, "file", "one model per file"),
    ("  task: binary", "  task: [binary", 12, "file", "is not YAML"),
]


@pytest.mark.parametrize(
    ("there", "instead", "line", "field", "message"),
    REFUSED,
    ids=[f"{number}-{case[3]}" for number, case in enumerate(REFUSED)],
)
def test_bad_field_is_refused_with_its_line(
    tmp_path: Path, there: str, instead: str, line: int, field: str, message: str
) -> None:
    assert there in MINIMAL
    file = write(tmp_path, MINIMAL.replace(there, instead, 1))

    found = refused(file)

    assert (field, line) in {(problem.field, problem.line) for problem in found}, found
    assert any(message in problem.message for problem in found if problem.field == field), found
    assert all(problem.file == file for problem in found)


@pytest.mark.parametrize(
    ("there", "instead", "line", "field", "message"),
    [
        ("    - dose", "    - age", 21, "features[2].name", "listed twice"),
        ("    - dose", "    - admitted", 21, "features[2].name", "is the event timestamp"),
        ("type: text\n    - dose", "type: txt\n    - dose", 20, "features[1].type", "'number'"),
        ("days, drop", "days, classes: [1, 2], drop", 23, "target.classes", "no classes"),
        ("mean_absolute_error", "accuracy", 30, "evaluation.metric", "does not measure"),
        ("metric_floor: 2", "metric_floor: -2", 31, "gates.metric_floor", "from 0 to any"),
    ],
)
def test_bad_field_of_a_longer_file(
    tmp_path: Path, there: str, instead: str, line: int, field: str, message: str
) -> None:
    assert there in FULL
    found = refused(write(tmp_path, FULL.replace(there, instead, 1)))

    assert [(problem.field, problem.line) for problem in found] == [(field, line)]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("threshold: {maximize: f1}", "is of two classes"),
        ("calibration: sigmoid", "has no probabilities"),
        ("class_weight: balanced", "has no classes"),
    ],
)
def test_a_regression_decides_nothing(tmp_path: Path, line: str, message: str) -> None:
    (problem,) = refused(write(tmp_path, f"{FULL.rstrip()}\n  {line}\n"))

    assert problem.field == line.partition(":")[0]
    assert message in problem.message


def test_multiclass_of_two_classes_is_refused(tmp_path: Path) -> None:
    text = MINIMAL.replace("binary", "multiclass").replace("type: boolean}", "classes: [a, b]}")

    (problem,) = refused(write(tmp_path, text))

    assert (problem.field, problem.line) == ("target.classes", 10)
    assert "task: binary" in problem.message


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = MINIMAL.replace("age: integer", "label: integer").replace("0.6", "7")

    assert {problem.field for problem in refused(write(tmp_path, text))} == {
        "features.label",
        "gates.metric_floor",
    }


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "is empty"),
        (b"# nothing\n", 1, "is empty"),
        (b"- a\n", 1, "must be a mapping"),
        (b"type: x\nattributes:\n  description: caf\xe9\n", 3, "not UTF-8"),
        (b"type: x\n\tattributes: y\n", 2, "is not YAML"),
        (b"type: \x00\n", 1, "is not YAML"),
        (b"a: &a [x, *a]\n", 1, "nested too deeply"),
        (b"? [a]\n: b\n", 1, "must be text"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
            b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
            b"e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
            1,
            "more than 50000 values",
        ),
        (b"type: !!python/name:os.system x\n", 1, "is not YAML"),
        (b"type: x\nattributes: 0x_\n", 2, "'0x_' is not valid int"),
        (b"type: x\n0x_: y\n", 2, "'0x_' is not valid int"),
        (b"type: x\nattributes: !!bool maybe\n", 2, "'maybe' is not valid bool"),
        (b"type: x\nattributes: !!timestamp soon\n", 2, "'soon' is not valid timestamp"),
        (b"type: x\nattributes: " + b"9" * 5000, 2, "is not valid int"),
        (b"a: " + b"[" * 100_000, 1, "nested too deeply"),
        (
            b"a: {<<: "
            + b"".join(b"[&x%d {<<: " % number for number in range(40, 0, -1))
            + b"&x0 {k: v}"
            + b"".join(b"}, *x%d]" % number for number in range(1, 41))
            + b"}\n",
            1,
            "more than 50000 values",
        ),
    ],
)
def test_file_that_is_not_a_yaml_mapping(
    tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    found = refused(write(tmp_path, content))

    assert found[0].line == line
    assert message in found[0].message


def test_home_of_an_unknown_user_is_refused_with_its_line(tmp_path: Path) -> None:
    text = MINIMAL.replace("patients.csv", "~nobody_of_this_name/patients.csv")

    found = refused(write(tmp_path, text))

    assert (found[0].line, found[0].field) == (3, "source.file")
    assert "has no home directory" in found[0].message


def test_folder_in_the_place_of_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "patients" / "defs.yaml").mkdir(parents=True)

    assert "cannot be read" in read_models(tmp_path).problems[0].message


def test_a_grid_of_a_parameter_that_the_estimator_lacks_is_refused_in_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop" / "defs.yaml"
    path.parent.mkdir()
    shipped = (
        (SHIPPED / "cars" / "defs.yaml").read_text().replace("model_name: cars", "model_name: shop")
    )
    path.write_text(
        shipped + "  candidates:\n    - ridge\n    - {estimator: ridge, grid: {depth: [1, 2]}}\n"
    )
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    [problem] = caught.value.problems
    assert problem.line == len(path.read_text().splitlines())
    assert problem.field == "candidates[1]"
    assert "no parameter depth" in problem.message
