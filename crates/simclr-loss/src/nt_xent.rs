//! NT-Xent without the similarity matrix: tiles of it come and go, forward and backward.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use simclr_dist::ProcessGroup;
use simclr_ops::Element;
use simclr_ops::product::{Instructions, Matrix, MatrixMut, product};

use crate::error::{LossError, check_temperature, check_views};
#[cfg(feature = "cuda")]
use crate::on_gpu::OnGpu;
use crate::symmetric::{LOWEST_TAU, Symmetric};

/// Rows and columns of a tile: 256 KiB in f32, what a core's second cache holds. The tiles are cut by shape, so that the
/// bits do not depend on the number of threads.
pub(crate) const TILE_ROWS: usize = 128;
pub(crate) const TILE_COLS: usize = 512;

/// Normalised, temperature-scaled cross entropy over the `2n` views of a batch, in nats per view.
///
/// Row `k` of `left` and row `k` of `right` are the two views of image `k`; the other `2n - 2` rows are its negatives:
///
/// `-1/2n Σ_i log(exp(sim(z_i, z_pos(i)) / tau) / Σ_{k ≠ i} exp(sim(z_i, z_k) / tau))`
///
/// Chen et al. 2020, arXiv:2002.05709, eq. 1. Uses O(n · (d + tile)) memory: the similarity matrix is never stored, the
/// backward computes its tiles again. A zero row has similarity 0 with all others, and gradient 0.
///
/// # Shapes
/// `left`, `right`: `[n, d]`, f32 or f64 on the CPU, f32 on a GPU (in a build that has GPUs), `n >= 1`. Returns `[]`, of the inputs' type.
///
/// # Errors
/// [`LossError::Shape`], [`LossError::Dtype`] or [`LossError::Device`] if the two are not as above, [`LossError::Temperature`] unless `tau` is finite and above 0.
///
/// ```
/// use candle_core::{Device, Var};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let left = Var::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
/// let right = Var::new(&[[1f32, 0.1], [0.1, 1.0]], &Device::Cpu)?;
/// let loss = simclr_loss::nt_xent(&left, &right, 0.5)?;
/// let gradients = loss.backward()?;
/// assert!(loss.to_scalar::<f32>()? > 0.0 && gradients.get(&left).is_some());
/// # Ok(())
/// # }
/// ```
pub fn nt_xent(left: &Tensor, right: &Tensor, tau: f64) -> std::result::Result<Tensor, LossError> {
    check(left, right, tau)?;
    let (left, right) = (left.contiguous()?, right.contiguous()?);
    #[cfg(feature = "cuda")]
    if left.device().is_cuda() {
        return Ok(left.apply_op2(&right, OnGpu::new(&left, &right, tau)?)?);
    }
    Ok(left.apply_op2(&right, NtXent { tau, log_sums: Mutex::default(), all: None })?)
}

/// [`nt_xent`] over the batches of all processes together: the negatives of a view are all other views of all of them.
///
/// `left` and `right` are this process's share. The loss is that of the whole batch, the same on all processes, to the bit; its
/// gradients for `left` and `right` are complete: what they do to the rows of other processes is in them. So the gradients of
/// parameters are to be summed over the processes, not averaged.
///
/// Every process multiplies its own rows with all others and sends its embeddings once, and once a sum for every row; no gradient of
/// an embedding need be sent, as both terms of a similarity follow from these sums.
///
/// # Shapes
/// As [`nt_xent`], with the same `n` on all processes.
///
/// # Errors
/// As [`nt_xent`]; [`LossError::Shape`] if another process has other shapes, [`LossError::Dist`] if one cannot be reached.
pub fn nt_xent_over(
    left: &Tensor,
    right: &Tensor,
    tau: f64,
    group: &Arc<dyn ProcessGroup>,
) -> std::result::Result<Tensor, LossError> {
    if group.size() == 1 {
        return nt_xent(left, right, tau);
    }
    check(left, right, tau)?;
    if !left.device().is_cpu() {
        return Err(device_error(left, "the CPU: of several processes the loss is computed there"));
    }
    let (left, right) = (left.contiguous()?, right.contiguous()?);
    let all = Some(AllRows::gather(&left, &right, group)?);
    Ok(left.apply_op2(&right, NtXent { tau, log_sums: Mutex::default(), all })?)
}

fn check(left: &Tensor, right: &Tensor, tau: f64) -> std::result::Result<(), LossError> {
    check_views(left, right)?;
    check_temperature(tau)?;
    match left.device() {
        Device::Cpu => Ok(()),
        Device::Cuda(_) if cfg!(feature = "cuda") && left.dtype() == DType::F32 => Ok(()),
        Device::Cuda(_) if cfg!(feature = "cuda") => {
            Err(LossError::Dtype { argument: "left", found: left.dtype(), expected: "F32 on a GPU".into() })
        }
        _ => Err(device_error(left, "the CPU, or a GPU in a build with the feature `cuda`")),
    }
}

fn device_error(left: &Tensor, expected: &str) -> LossError {
    let found = format!("{:?}", left.device().location());
    LossError::Device { argument: "left", found, expected: expected.into() }
}

/// The rows of all processes, by rank.
struct AllRows {
    group: Arc<dyn ProcessGroup>,
    left: Tensor,
    right: Tensor,
}

impl AllRows {
    fn gather(left: &Tensor, right: &Tensor, group: &Arc<dyn ProcessGroup>) -> std::result::Result<Self, LossError> {
        fn run<T: Element + Pod>(
            left: &Tensor,
            right: &Tensor,
            group: &Arc<dyn ProcessGroup>,
        ) -> std::result::Result<AllRows, LossError> {
            let (n, d) = left.dims2()?;
            let mut own: Vec<T> = left.flatten_all()?.to_vec1()?;
            own.extend(right.flatten_all()?.to_vec1::<T>()?);
            let [mut lefts, mut rights] = [Vec::new(), Vec::new()];
            for bytes in group.all_gather(bytemuck::cast_slice(&own))? {
                let numbers: Vec<T> = bytemuck::pod_collect_to_vec(&bytes);
                if numbers.len() != own.len() {
                    let expected = format!("{} numbers, as another process has", numbers.len() / 2);
                    return Err(LossError::shape("left", left, expected));
                }
                lefts.extend_from_slice(&numbers[..n * d]);
                rights.extend_from_slice(&numbers[n * d..]);
            }
            let rows = |numbers| Tensor::from_vec(numbers, (n * group.size(), d), left.device());
            Ok(AllRows { group: group.clone(), left: rows(lefts)?, right: rows(rights)? })
        }
        match left.dtype() {
            DType::F64 => run::<f64>(&left.detach(), &right.detach(), group),
            _ => run::<f32>(&left.detach(), &right.detach(), group),
        }
    }

    /// Completes what this process knows of its own rows.
    fn complete(&self, own: &[(f64, f64)]) -> Result<Vec<(f64, f64)>> {
        let numbers: Vec<f64> = own.iter().flat_map(|&(sum, positive)| [sum, positive]).collect();
        let all = self.group.all_gather(bytemuck::cast_slice(&numbers)).map_err(candle_core::Error::wrap)?;
        let ranks: Vec<Vec<f64>> = all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        // A rank gives the terms of its left rows, then those of its right ones; in order are all left ones, then all right ones.
        let halves = [0..own.len(), own.len()..2 * own.len()];
        let in_order = halves.into_iter().flat_map(|half| ranks.iter().map(move |rank| &rank[half.clone()]));
        Ok(in_order.flat_map(|half| half.chunks_exact(2)).map(|pair| (pair[0], pair[1])).collect())
    }
}

struct NtXent {
    tau: f64,
    /// `log Σ_{k ≠ i} exp(sim / tau)` of every view, kept from the forward pass.
    log_sums: Mutex<Vec<f64>>,
    /// Where the arguments are the share of one of several processes.
    all: Option<AllRows>,
}

impl NtXent {
    /// The views of all processes, of which those in `left` and `right` are this one's.
    fn views<T: Element>(&self, left: &[T], right: &[T], d: usize) -> Result<Views<T>> {
        let rows = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
        match &self.all {
            None => Ok(Views::new(left, right, d, self.tau)),
            Some(all) => {
                let (own, n) = (left.len() / d, all.left.dim(0)?);
                let first = all.group.rank() * own;
                let views = Views::new(&rows(&all.left)?, &rows(&all.right)?, d, self.tau);
                Ok(Views { own: vec![first..first + own, n + first..n + first + own], ..views })
            }
        }
    }
}

impl CustomOp2 for NtXent {
    fn name(&self) -> &'static str {
        "nt-xent"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Element>(
            op: &NtXent,
            (left, left_layout): (&[T], &Layout),
            (right, right_layout): (&[T], &Layout),
        ) -> Result<f64> {
            let (_, d) = left_layout.shape().dims2()?;
            let slice = |all, layout: &Layout| match layout.contiguous_offsets() {
                Some((start, end)) => Ok::<&[T], candle_core::Error>(std::ops::Index::index(all, start..end)),
                None => candle_core::bail!("nt-xent needs contiguous rows"),
            };
            let views = op.views(slice(left, left_layout)?, slice(right, right_layout)?, d)?;
            let (loss, log_sums) = views.loss(op.all.as_ref())?;
            *op.log_sums.lock().unwrap_or_else(PoisonError::into_inner) = log_sums;
            Ok(loss)
        }
        let storage = match (s1, s2) {
            (CpuStorage::F32(a), CpuStorage::F32(b)) => CpuStorage::F32(vec![run(self, (a, l1), (b, l2))? as f32]),
            (CpuStorage::F64(a), CpuStorage::F64(b)) => CpuStorage::F64(vec![run(self, (a, l1), (b, l2))?]),
            _ => candle_core::bail!("nt-xent needs two tensors of f32 or two of f64"),
        };
        Ok((storage, Shape::from(())))
    }

    fn bwd(
        &self,
        left: &Tensor,
        right: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        fn run<T: Element>(op: &NtXent, left: &Tensor, right: &Tensor, grad: f64) -> Result<[Tensor; 2]> {
            let (n, d) = left.dims2()?;
            let rows = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
            let views = op.views(&rows(left)?, &rows(right)?, d)?;
            let log_sums = op.log_sums.lock().unwrap_or_else(PoisonError::into_inner);
            let mut gradient = views.gradient(&log_sums, grad);
            let of_right = gradient.split_off(n * d);
            let tensor = |g: Vec<T>| Tensor::from_vec(g, (n, d), left.device());
            Ok([tensor(gradient)?, tensor(of_right)?])
        }
        let grad: f64 = grad.to_dtype(DType::F64)?.to_scalar()?;
        let (left, right) = (left.detach(), right.detach());
        let [of_left, of_right] = match left.dtype() {
            DType::F64 => run::<f64>(self, &left, &right, grad)?,
            _ => run::<f32>(self, &left, &right, grad)?,
        };
        Ok((Some(of_left), Some(of_right)))
    }
}

/// The `2n` views of a batch as unit rows; view `i` and view `i ± n` are a pair.
struct Views<T> {
    unit: Vec<T>,
    lengths: Vec<f64>,
    d: usize,
    tau: f64,
    /// The rows that this process answers for: all of them, or its left and its right ones.
    own: Vec<Range<usize>>,
}

impl<T: Element> Views<T> {
    fn new(left: &[T], right: &[T], d: usize, tau: f64) -> Self {
        let mut unit = [left, right].concat();
        let lengths = unit
            .par_chunks_mut(d)
            .map(|row| {
                let length = row.iter().map(|&x| wide(x) * wide(x)).sum::<f64>().sqrt();
                // A zero row is left as it is: similarity 0.
                if length != 0.0 {
                    row.iter_mut().for_each(|x| *x = narrow(wide(*x) / length));
                }
                length
            })
            .collect::<Vec<f64>>();
        let own = std::iter::once(0..lengths.len()).collect();
        Self { unit, lengths, d, tau, own }
    }

    fn count(&self) -> usize {
        self.lengths.len()
    }

    fn positive_of(&self, i: usize) -> usize {
        (i + self.count() / 2) % self.count()
    }

    /// The loss, and `log Σ_{k ≠ i} exp(sim(z_i, z_k) / tau)` for every view `i`; other processes add what they know of their rows.
    fn loss(&self, all: Option<&AllRows>) -> Result<(f64, Vec<f64>)> {
        let own = match (self.symmetric(), all) {
            (Some(symmetric), None) => symmetric.terms(|i| self.positive_of(i)),
            (Some(symmetric), Some(_)) => symmetric.terms_of(&self.tiles(), |i| self.positive_of(i)),
            (None, _) => self.terms(),
        };
        let terms = match all {
            None => own,
            Some(all) => all.complete(&own)?,
        };
        let total: f64 = terms.iter().map(|(log_sum, positive)| log_sum - positive).sum();
        Ok((total / self.count() as f64, terms.into_iter().map(|(log_sum, _)| log_sum).collect()))
    }

    /// `log Σ_{k ≠ i} exp(sim(z_i, z_k) / tau)` and the logit of its positive for every own view `i`.
    fn terms(&self) -> Vec<(f64, f64)> {
        self.tiles_of_rows(|first, rows| {
            // Of every row: the largest logit so far, the sum of exponentials around it, the positive's logit.
            let mut sums = vec![(f64::NEG_INFINITY, 0.0, 0.0); rows];
            self.for_each_tile(first, rows, |columns, similarities, row| {
                let (i, (largest, sum, positive)) = (first + row, &mut sums[row]);
                let logit = |x: T| wide(x) / self.tau;
                let others =
                    || columns.clone().zip(&*similarities).filter(move |(j, _)| *j != i).map(|(j, &x)| (j, logit(x)));
                let tile_largest = others().map(|(_, logit)| logit).fold(*largest, max_with_nan);
                let tile_sum: f64 = others().map(|(_, logit)| (logit - tile_largest).exp()).sum();
                // The first tile may have held nothing but the row itself: then there is no sum to carry over.
                let carried = if *sum == 0.0 { 0.0 } else { *sum * (*largest - tile_largest).exp() };
                (*largest, *sum) = (tile_largest, carried + tile_sum);
                if let Some(place) = self.positive_of(i).checked_sub(columns.start).filter(|&p| p < similarities.len())
                {
                    *positive = logit(similarities[place]);
                }
            });
            sums.into_iter().map(|(largest, sum, positive)| (largest + sum.ln(), positive)).collect()
        })
    }

    /// Gradient of `grad` times the loss, for all own rows before they were normalised.
    ///
    /// With `p_ij = exp(sim_ij / tau - log_sum_i)`, row `i` gets `Σ_j (p_ij + p_ji - 2 [j = pos(i)]) u_j / (2n tau)`
    /// through its unit vector, of which the part along the row vanishes in the normalisation.
    fn gradient(&self, log_sums: &[f64], grad: f64) -> Vec<T> {
        let (d, scale) = (self.d, grad / (self.count() as f64 * self.tau));
        if let Some(symmetric) = self.symmetric() {
            let mut sums: Vec<T> = of_type(symmetric.attractions(&self.tiles(), log_sums, |i| self.positive_of(i)));
            let own: Vec<usize> = self.own.iter().cloned().flatten().collect();
            sums.par_chunks_mut(d).zip(own).for_each(|(sums, i)| self.through_normalisation(i, sums, scale));
            return sums;
        }
        self.tiles_of_rows(|first, rows| {
            let mut sums = vec![T::zero(); rows * d];
            self.for_each_tile_with(first, rows, |columns, tile| {
                for (row, weights) in tile.chunks_exact_mut(columns.len()).enumerate() {
                    let (i, positive) = (first + row, self.positive_of(first + row));
                    for (j, weight) in columns.clone().zip(weights) {
                        let logit = wide(*weight) / self.tau;
                        *weight = narrow(match j {
                            _ if j == i => 0.0,
                            _ => {
                                let both = (logit - log_sums[i]).exp() + (logit - log_sums[j]).exp();
                                if j == positive { both - 2.0 } else { both }
                            }
                        });
                    }
                }
                let others = Matrix::new(&self.unit[columns.start * d..], columns.len(), d);
                let weights = Matrix::new(tile, rows, columns.len());
                product(Instructions::best(), &mut MatrixMut::new(&mut sums, rows, d), weights, others, true, false);
            });
            for (row, sums) in sums.chunks_exact_mut(d).enumerate() {
                self.through_normalisation(first + row, sums, scale);
            }
            sums
        })
    }

    /// From the gradient of a unit row, divided by `scale`, to that of the row before it was normalised.
    fn through_normalisation(&self, row: usize, sums: &mut [T], scale: f64) {
        let (unit, length) = (&self.unit[row * self.d..][..self.d], self.lengths[row]);
        if length == 0.0 {
            return sums.fill(T::zero());
        }
        let along: f64 = unit.iter().zip(&*sums).map(|(&u, &g)| wide(u) * wide(g)).sum();
        for (g, &u) in sums.iter_mut().zip(unit) {
            *g = narrow((wide(*g) - along * wide(u)) * scale / length);
        }
    }

    /// The fast form, for f32 and temperatures that are not very small.
    fn symmetric(&self) -> Option<Symmetric<'_>> {
        let unit = (&self.unit as &dyn Any).downcast_ref::<Vec<f32>>()?;
        (self.tau >= LOWEST_TAU).then(|| Symmetric::new(unit, self.d, self.tau))
    }

    /// Its own rows, a tile at a time.
    fn tiles(&self) -> Vec<Range<usize>> {
        let of = |own: &Range<usize>| {
            let end = own.end;
            own.clone().step_by(TILE_ROWS).map(move |first| first..(first + TILE_ROWS).min(end))
        };
        self.own.iter().flat_map(of).collect()
    }

    /// Runs `work(first row, rows)` for every tile of own rows on all threads and joins what it returns, in order.
    fn tiles_of_rows<R: Send>(&self, work: impl Fn(usize, usize) -> Vec<R> + Sync) -> Vec<R> {
        self.tiles().into_par_iter().flat_map_iter(|rows| work(rows.start, rows.len())).collect()
    }

    /// Calls `consume(columns, similarities of the row with them, row)` for every row of every tile beside `first`.
    fn for_each_tile(&self, first: usize, rows: usize, mut consume: impl FnMut(Range<usize>, &[T], usize)) {
        self.for_each_tile_with(first, rows, |columns, tile| {
            for (row, similarities) in tile.chunks_exact(columns.len()).enumerate() {
                consume(columns.clone(), similarities, row);
            }
        });
    }

    /// Calls `consume(columns, similarities)` for every tile of `rows` rows from `first`; it may overwrite the tile.
    fn for_each_tile_with(&self, first: usize, rows: usize, mut consume: impl FnMut(Range<usize>, &mut [T])) {
        let d = self.d;
        let mut tile = vec![T::zero(); rows * TILE_COLS.min(self.count())];
        for start in (0..self.count()).step_by(TILE_COLS) {
            let columns = start..(start + TILE_COLS).min(self.count());
            let tile = &mut tile[..rows * columns.len()];
            let (own, others) = (&self.unit[first * d..], &self.unit[start * d..]);
            let similarities = &mut MatrixMut::new(tile, rows, columns.len());
            product(
                Instructions::best(),
                similarities,
                Matrix::new(own, rows, d),
                Matrix::new(others, columns.len(), d).t(),
                false,
                false,
            );
            consume(columns, tile);
        }
    }
}

/// Numbers of a type that is known to be `T`.
fn of_type<T: Element>(numbers: Vec<f32>) -> Vec<T> {
    match (Box::new(numbers) as Box<dyn Any>).downcast() {
        Ok(numbers) => *numbers,
        Err(_) => unreachable!("the fast form is for f32"),
    }
}

/// The larger of two numbers, NaN if the second is: a broken network must show.
fn max_with_nan(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn wide<T: Element>(x: T) -> f64 {
    candle_core::WithDType::to_f64(x)
}

fn narrow<T: Element>(x: f64) -> T {
    candle_core::WithDType::from_f64(x)
}
