//! Attention of all texts of a group at once.

use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope_thd;

use super::TensorScores;
use super::layout::Layout;
#[cfg(feature = "flash-attn")]
use crate::embed::kernels::Reach;

/// Candle sums in the format of what it sums on the CPU, and in 32 bits elsewhere.
fn softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    if scores.device().is_cpu() {
        return softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(scores.dtype());
    }
    softmax_last_dim(scores)
}

impl Layout {
    /// Rows of queries, keys and values → rows of what the heads attended to.
    pub(super) fn attention(&self, scores: &TensorScores, qkv: &Tensor) -> candle_core::Result<Tensor> {
        let heads = scores.heads;
        let (texts, rows) = match &self.starts {
            Some(_) => (1, qkv.dim(0)?),
            None => (self.texts, self.longest),
        };
        let qkv = qkv.reshape((texts, rows, heads.queries + 2 * heads.shared, heads.width))?;
        let mut queries = qkv.narrow(2, 0, heads.queries)?;
        let mut keys = qkv.narrow(2, heads.queries, heads.shared)?;
        let values = qkv.narrow(2, heads.queries + heads.shared, heads.shared)?;
        if let Some((of_queries, of_keys)) = &scores.head_norms {
            queries = of_queries.of(&queries.contiguous()?)?;
            keys = of_keys.of(&keys.contiguous()?)?;
        }
        if let Some((cosines, sines)) = scores.rotary.map(|i| &self.rotary[i]) {
            queries = rope_thd(&queries.contiguous()?, cosines, sines)?;
            keys = rope_thd(&keys.contiguous()?, cosines, sines)?;
        }
        #[cfg(feature = "flash-attn")]
        if let Some(starts) = &self.starts {
            return self.flash(scores, [&queries, &keys, &values], starts);
        }
        self.padded(scores, [&queries, &keys, &values])
    }

    /// As three operations over all heads: products, softmax, products.
    fn padded(&self, scores: &TensorScores, [queries, keys, values]: [&Tensor; 3]) -> candle_core::Result<Tensor> {
        let (heads, n) = (scores.heads, self.longest);
        let by_head = |t: &Tensor| t.transpose(1, 2)?.contiguous();
        let mut queries = by_head(queries)?;
        if scores.query_scale != 1.0 {
            queries = queries.affine(f64::from(scores.query_scale), 0.0)?;
        }
        let (keys, values) = (by_head(keys)?, by_head(values)?);
        // Queries that share keys stand below each other, so that nothing is repeated.
        let group = heads.queries / heads.shared;
        let queries = queries.reshape((self.texts, heads.shared, group * n, heads.width))?;
        let mut weights = queries.matmul(&keys.transpose(2, 3)?)?.reshape((self.texts, heads.queries, n, n))?;
        if let Some(distances) = scores.distances.map(|i| &self.distances[i]) {
            weights = weights.broadcast_add(distances)?;
        }
        if let Some((_, mask)) = self.masks.iter().find(|(reach, _)| *reach == scores.reach) {
            weights = weights.broadcast_add(mask)?;
        }
        let weights = softmax(&weights)?.reshape((self.texts, heads.shared, group * n, n))?;
        let attended = weights.matmul(&values)?.reshape((self.texts, heads.queries, n, heads.width))?;
        attended.transpose(1, 2)?.contiguous()?.reshape((self.texts * n, heads.queries * heads.width))
    }

    /// As one operation, over texts that lie one behind the other.
    #[cfg(feature = "flash-attn")]
    fn flash(
        &self,
        scores: &TensorScores,
        [queries, keys, values]: [&Tensor; 3],
        starts: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let (before, after) = match scores.reach {
            Reach::All => (None, None),
            Reach::Before => (None, Some(0)),
            Reach::Near(most) => (Some(most), Some(most)),
        };
        let attended = candle_flash_attn::flash_attn_varlen_windowed(
            &queries.squeeze(0)?,
            &keys.squeeze(0)?,
            &values.squeeze(0)?,
            starts,
            starts,
            self.longest,
            self.longest,
            scores.query_scale,
            before,
            after,
        )?;
        attended.flatten_from(1)
    }
}
