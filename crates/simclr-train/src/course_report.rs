//! What the course's experiment came to, beside what others got.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use simclr_eval::LinearResult;

use crate::cs231n::Experiment;
use crate::figure::plot::{self, Plot, Series};
use crate::linear::to_json;
use crate::output::Output;
use crate::report::{self, Definition, Report};
use crate::run_folder::write_whole;
use crate::settings;
use crate::table::Table;

/// The numbers of one experiment; accuracies are fractions.
pub(crate) struct Findings {
    /// Mean loss of the last continued epoch.
    pub(crate) continued_loss: f64,
    /// kNN top-1 and top-5 on the test split, of the best continued epoch.
    pub(crate) knn: [f64; 2],
    pub(crate) linear_raw_pixels: LinearResult,
    pub(crate) linear_random: LinearResult,
    pub(crate) linear_trained: LinearResult,
    pub(crate) parameters: usize,
    pub(crate) multiply_adds: u64,
    pub(crate) train_pictures: usize,
    pub(crate) test_pictures: usize,
    pub(crate) seconds_per_epoch: f64,
    pub(crate) steps_per_epoch: u64,
}

/// Numbers in the saved outputs of two students' notebooks, from the published weights on the whole of CIFAR-10.
const STUDENTS: [[&str; 2]; 7] = [
    ["3.2587", "3.2580"],
    ["83.65 %", "82.95 %"],
    ["99.34 %", "–"],
    ["82.29 %", "82.34 %"],
    ["15.30 %", "16.57 %"],
    ["24.62 M", "24.62 M"],
    ["1.299 G", "1.299 G"],
];

impl Findings {
    fn table(&self) -> Table {
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        let ours = [
            ("loss of the continued epoch".to_owned(), format!("{:.4}", self.continued_loss)),
            ("kNN top-1, k = 200".to_owned(), percent(self.knn[0])),
            ("kNN top-5, k = 200".to_owned(), percent(self.knn[1])),
            (
                format!("linear on {} labels, best top-1", self.linear_trained.labels),
                percent(self.linear_trained.best().top1),
            ),
            ("same, random encoder".to_owned(), percent(self.linear_random.best().top1)),
            ("parameters".to_owned(), format!("{:.2} M", self.parameters as f64 / 1e6)),
            ("multiply-adds of a picture".to_owned(), format!("{:.3} G", self.multiply_adds as f64 / 1e9)),
        ];
        let rows =
            ours.into_iter().zip(STUDENTS).map(|((quantity, ours), [a, b])| vec![quantity, a.into(), b.into(), ours]);
        let columns = ["quantity", "student A", "student B", "this run"].map(String::from).into();
        Table { columns, rows: rows.collect() }
    }

    fn to_json(&self, folder: &Path) -> Value {
        json!({
            "run": folder, "finished": true, "loss": self.continued_loss, "knn_top1": self.knn[0], "knn_top5": self.knn[1],
            "linear_top1": self.linear_trained.best().top1, "linear_top1_random": self.linear_random.best().top1,
            "linear_top1_raw_pixels": self.linear_raw_pixels.best().top1,
            "parameters": self.parameters, "multiply_adds": self.multiply_adds, "seconds_per_epoch": self.seconds_per_epoch,
            "steps_per_epoch": self.steps_per_epoch, "train_pictures": self.train_pictures, "test_pictures": self.test_pictures,
            "linear": {
                "trained": to_json(&self.linear_trained), "random": to_json(&self.linear_random),
                "raw_pixels": to_json(&self.linear_raw_pixels),
            },
        })
    }

    /// Test accuracy over the epochs of the linear evaluation, with and without pretraining.
    fn plots(&self) -> Vec<Plot> {
        let curve = |name: &str, result: &LinearResult| Series {
            name: name.into(),
            points: result.epochs.iter().map(|e| (e.epoch as f64, 100.0 * e.test.top1)).collect(),
        };
        vec![Plot {
            title: "Linear evaluation, test top-1".into(),
            x_label: "epoch".into(),
            y_label: "%".into(),
            series: vec![curve("pretrained", &self.linear_trained), curve("random encoder", &self.linear_random)],
            baselines: vec![("raw pixels".into(), 100.0 * self.linear_raw_pixels.last().top1)],
        }]
    }
}

/// Prints the result and writes `result.json`, `curves.svg` and `report.html`.
pub(crate) fn finish(
    folder: &Path,
    experiment: &Experiment,
    findings: &Findings,
    output: &Output,
) -> anyhow::Result<()> {
    let report = report(experiment, findings)?;
    let object = findings.to_json(folder);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_whole(&path, bytes).with_context(|| path.display().to_string())
    };
    write("curves.svg", plot::svg(&findings.plots()).as_bytes())?;
    write("report.html", report::html(&report).as_bytes())?;
    write("result.json", object.to_string().as_bytes())?;
    let notes = report.notes.iter().fold(String::new(), |all, note| format!("{all}\n\n{note}"));
    output.say(format!("{} has the plot and what the numbers mean", folder.join("report.html").display()));
    output.result(format!("{}{notes}", report.results.text()), &object);
    Ok(())
}

fn report(experiment: &Experiment, findings: &Findings) -> anyhow::Result<Report> {
    Ok(Report {
        title: "The course's experiment: SimCLR on CIFAR-10".into(),
        summary: format!(
            "{} of width {}: continued for {} epoch(s) of {} steps in {:.0} s each, tested by kNN against {} training pictures, and \
             evaluated linearly on {} labels; {} test pictures.",
            experiment.training.arch,
            experiment.training.width,
            experiment.training.epochs,
            findings.steps_per_epoch,
            findings.seconds_per_epoch,
            findings.train_pictures,
            findings.linear_trained.labels,
            findings.test_pictures
        ),
        results: findings.table(),
        sections: vec![report::curves(&findings.plots())],
        notes: notes(experiment, findings),
        command: command(experiment),
        settings: settings::flat(&toml::Table::try_from(experiment)?),
        definitions: DEFINITIONS.map(|(term, meaning)| Definition { term, meaning }).into(),
    })
}

/// What has to be known before the numbers are compared.
fn notes(experiment: &Experiment, findings: &Findings) -> Vec<String> {
    let mut notes = Vec::new();
    match &experiment.weights {
        Some(path) => notes.push(format!("The encoder began with the weights of {}.", path.display())),
        None => notes.push(format!(
            "The encoder was pretrained here for {} epochs; the students' began with the course's weights, which had about 18 hours \
             on a GPU. Their accuracies are not to be expected.",
            experiment.pretrain_epochs
        )),
    }
    if (findings.train_pictures, findings.test_pictures) != (50_000, 10_000) {
        notes.push(format!(
            "This run knows {} training and {} test pictures; the students' had 50000 and 10000.",
            findings.train_pictures, findings.test_pictures
        ));
    }
    notes.push("As in the course, the best epochs of kNN and of the linear evaluation are chosen on the test split, which makes them a little too good.".into());
    notes.push(if experiment.batch_statistics {
        "As in the course, the encoder stayed in training mode during the linear evaluation: its parameters are frozen, but batches \
         were normalised by their own statistics and the running statistics drifted."
            .into()
    } else {
        "During the linear evaluation the encoder was in evaluation mode and did not change by a bit. The course leaves it in training \
         mode: --batch-statistics does that too."
            .to_owned()
    });
    notes
}

/// The command that runs it again.
fn command(experiment: &Experiment) -> String {
    let mut words = vec!["simclr-train cs231n".to_owned()];
    let training = &experiment.training;
    let mut add = |flag: &str, value: Option<String>| words.extend(value.map(|value| format!("{flag} {value}")));
    add("--data-dir", Some(training.data_dir.display().to_string()));
    match &experiment.weights {
        Some(path) => add("--weights", Some(path.display().to_string())),
        None => add("--pretrain-epochs", Some(experiment.pretrain_epochs.to_string())),
    }
    add("--subset", experiment.subset.map(|n| n.to_string()));
    add("--test-subset", experiment.test_subset.map(|n| n.to_string()));
    add("--arch", Some(training.arch.clone()));
    add("--width", Some(training.width.to_string()));
    add("--epochs", Some(training.epochs.to_string()));
    add("--batch", Some(training.batch.to_string()));
    add("--lr", Some(training.learning_rate.to_string()));
    add("--seed", Some(training.seed.to_string()));
    add("--labels", Some(experiment.labels.to_string()));
    add("--linear-epochs", Some(experiment.linear_epochs.to_string()));
    add("--linear-batch", Some(experiment.linear_batch.to_string()));
    if experiment.batch_statistics {
        words.push("--batch-statistics".into());
    }
    words.join(" ")
}

const DEFINITIONS: [(&str, &str); 5] = [
    (
        "continued epoch",
        "One epoch of contrastive training on the first half of the training pictures, without labels.",
    ),
    (
        "kNN",
        "A test picture is given the label that its 200 nearest training pictures vote for, each with exp(sim / 0.5); sim is the cosine \
         of their features. Nothing is trained for it.",
    ),
    (
        "linear evaluation",
        "One linear layer learns the labels of the first tenth of the training pictures from the encoder's features; the encoder does \
         not learn any more.",
    ),
    ("top-1, top-5", "How often the true label comes first, or is among the first five."),
    ("random encoder", "The same linear evaluation on an encoder that was never trained."),
];
