use candle_core::{Tensor, Var};

use super::*;
use crate::check::{close, forms, random};

const WINDOW: Window = Window { stride: 2, padding: 1 };
const NORM: BatchNorm = BatchNorm { eps: 1e-5, relu: true, groups: 1 };

fn variable(dims: &[usize], seed: u64) -> Var {
    Var::from_tensor(&random(dims, seed)).unwrap()
}

struct Parameters {
    conv: Var,
    scale: Var,
    shift: Var,
    weight: Var,
    bias: Var,
}

impl Parameters {
    fn new() -> Self {
        Self {
            conv: variable(&[4, 3, 3, 3], 1),
            scale: variable(&[4], 2),
            shift: variable(&[4], 3),
            weight: variable(&[5, 4], 4),
            bias: variable(&[5], 5),
        }
    }

    fn all(&self) -> [&Var; 5] {
        [&self.conv, &self.scale, &self.shift, &self.weight, &self.bias]
    }
}

/// Every op once, each a node of candle's graph.
fn op_by_op(ctx: &Context, x: &Tensor, p: &Parameters) -> Result<Tensor> {
    let x = conv2d(ctx, x, &p.conv, WINDOW)?;
    let (x, _) = batch_norm(ctx, &x, &p.scale, &p.shift, NORM)?;
    let x = global_avg_pool(ctx, &x)?;
    l2_normalize(ctx, &linear(ctx, &x, &p.weight, Some(&p.bias))?)
}

/// The same as one tape, one node.
fn as_one_tape(ctx: &Context, x: &Tensor, p: &Parameters, sink: &Arc<Sink>) -> Result<Tensor> {
    let mut tape = Tape::new(ctx);
    let x = tape.constant(x);
    let [conv, scale, shift, weight, bias] = p.all().map(|v| tape.leaf(v));
    let x = tape.conv2d(&x, &conv, WINDOW)?;
    let (x, _) = tape.batch_norm(&x, &scale, &shift, None, NORM)?;
    let x = tape.global_avg_pool(&x)?;
    let x = tape.linear(&x, &weight, Some(&bias))?;
    let x = tape.l2_normalize(&x)?;
    attach(tape, &x, &[&p.conv], sink)
}

#[test]
fn a_tape_and_single_ops_give_the_same_gradients() {
    let (x, target, p) = (random(&[3, 6, 5, 3], 6), random(&[3, 5], 7), Parameters::new());
    for ctx in forms() {
        // Two passes through the same parameters, as the two views of a batch.
        let loss = |views: [Tensor; 2]| ((&views[0] * &target).unwrap() - &views[1]).unwrap().sqr().unwrap().sum_all();
        let other = (&x * 0.5).unwrap();
        let one = loss([op_by_op(&ctx, &x, &p).unwrap(), op_by_op(&ctx, &other, &p).unwrap()]).unwrap();
        let want = one.backward().unwrap();

        let sink = Arc::default();
        let views = [&x, &other].map(|x| as_one_tape(&ctx, x, &p, &sink).unwrap());
        let two = loss(views).unwrap();
        let mut got = two.backward().unwrap();
        sink.drain_into(&mut got).unwrap();

        close(&two, &one, 1e-14, "loss");
        for v in p.all() {
            close(got.get(v).unwrap(), want.get(v).unwrap(), 1e-13, "gradient");
        }
        let message = two.backward().unwrap_err().to_string();
        assert!(message.contains("backward was called twice"), "{message}");
    }
}

#[test]
fn what_candle_does_not_track_gets_no_gradient_and_no_node() {
    let ctx = Context::new();
    let (x, weight) = (random(&[2, 3], 1), random(&[4, 3], 2));
    assert!(!linear(&ctx, &x, &weight, None).unwrap().track_op());
    let weight = Var::from_tensor(&weight).unwrap();
    let store = linear(&ctx, &x, &weight, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(store.get(&x).is_none());
    let sums = x.sum(0).unwrap().unsqueeze(0).unwrap().broadcast_as((4, 3)).unwrap();
    close(store.get(&weight).unwrap(), &sums, 1e-14, "weight");
}

#[test]
fn a_tensor_that_is_two_arguments_gets_both_gradients() {
    let square = variable(&[3, 3], 1);
    let loss = linear(&Context::new(), &square, &square, None).unwrap().sum_all().unwrap();
    let got = loss.backward().unwrap();
    let same = square.as_tensor().matmul(&square.t().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    close(got.get(&square).unwrap(), same.get(&square).unwrap(), 1e-14, "square");
}
