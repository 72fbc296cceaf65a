/* Samples one text from a llama2.c checkpoint; built and called by teacher.py.
 *
 * Matrices arrive transposed, [in][out], with `out` padded to a multiple of 64, and
 * with the norm gains folded in, so every product is a run of 64-wide accumulations.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX 512 /* context, and the widest vector but the fused ones */

typedef struct {
    int dim, hidden, layers, heads, kv_heads, vocab, seq; /* hidden: padded */
    const float *embed, *qkv, *wo, *w13, *w2, *out, *cos, *sin;
} Model;

static void product(const float *restrict w, const float *restrict x, float *restrict y, int in, int out) {
    for (int at = 0; at < out; at += 64) {
        float sum[64] = {0};
        for (int i = 0; i < in; i++)
            for (int j = 0; j < 64; j++) sum[j] += x[i] * w[i * out + at + j];
        memcpy(y + at, sum, sizeof sum);
    }
}

static void unit(const float *x, float *y, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[i] * x[i];
    s = 1.0f / sqrtf(s / n + 1e-5f);
    for (int i = 0; i < n; i++) y[i] = x[i] * s;
}

static void rotate(float *x, int n, int head_dim, const float *cos, const float *sin) {
    for (int i = 0; i < n; i += 2) {
        int f = i % head_dim / 2;
        float a = x[i], b = x[i + 1];
        x[i] = a * cos[f] - b * sin[f];
        x[i + 1] = a * sin[f] + b * cos[f];
    }
}

static float uniform(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((z ^ (z >> 31)) >> 40) * (1.0f / (1 << 24));
}

/* Sum of exp((x - top) * scale); the terms go to y. */
static float exponentials(const float *x, float *y, int n, float top, float scale) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += y[i] = expf((x[i] - top) * scale);
    return sum;
}

/* Writes up to seq - 1 tokens and the mean NLL at temperature 1; returns the count,
 * negative when the text did not end by itself. keys, values: layers * kv * seq. */
int sample(const Model *m, uint64_t *state, float temperature, int opening, float opening_temperature,
           float *keys, float *values, uint16_t *tokens, float *nll) {
    int dim = m->dim, hd = dim / m->heads, kv = m->kv_heads * hd, seq = m->seq, group = m->heads / m->kv_heads;
    int token = 1, qkv_out = (dim + 2 * kv + 63) / 64 * 64;
    float x[MAX], u[MAX], q[3 * MAX], gate[4 * MAX], score[MAX], logits[MAX], p[MAX], cost = 0;
    for (int pos = 0; pos < seq - 1; pos++) {
        const float *cos = m->cos + pos * hd / 2, *sin = m->sin + pos * hd / 2;
        memcpy(x, m->embed + token * dim, dim * sizeof *x);
        for (int l = 0; l < m->layers; l++) {
            unit(x, u, dim);
            product(m->qkv + (size_t)l * dim * qkv_out, u, q, dim, qkv_out);
            rotate(q, dim + kv, hd, cos, sin);
            float *K = keys + (size_t)l * kv * seq, *V = values + (size_t)l * kv * seq;
            for (int i = 0; i < kv; i++) K[i * seq + pos] = q[dim + i], V[i * seq + pos] = q[dim + kv + i];
            for (int h = 0; h < m->heads; h++) {
                const float *k = K + h / group * hd * seq, *v = V + h / group * hd * seq;
                memset(score, 0, (pos + 1) * sizeof *score);
                for (int d = 0; d < hd; d++)
                    for (int t = 0; t <= pos; t++) score[t] += q[h * hd + d] * k[d * seq + t];
                float top = score[0];
                for (int t = 1; t <= pos; t++) top = score[t] > top ? score[t] : top;
                float sum = exponentials(score, score, pos + 1, top, 1 / sqrtf(hd));
                for (int d = 0; d < hd; d++) {
                    float dot = 0;
                    for (int t = 0; t <= pos; t++) dot += score[t] * v[d * seq + t];
                    u[h * hd + d] = dot / sum;
                }
            }
            product(m->wo + (size_t)l * dim * dim, u, q, dim, dim);
            for (int i = 0; i < dim; i++) x[i] += q[i];
            unit(x, u, dim);
            product(m->w13 + (size_t)l * dim * 2 * m->hidden, u, gate, dim, 2 * m->hidden);
            for (int i = 0; i < m->hidden; i++) gate[i] *= gate[m->hidden + i] / (1 + expf(-gate[i]));
            product(m->w2 + (size_t)l * m->hidden * dim, gate, q, m->hidden, dim);
            for (int i = 0; i < dim; i++) x[i] += q[i];
        }
        unit(x, u, dim);
        product(m->out, u, logits, dim, m->vocab);
        float top = logits[0];
        for (int i = 1; i < m->vocab; i++) top = logits[i] > top ? logits[i] : top;
        float whole = exponentials(logits, p, m->vocab, top, 1);
        float heat = pos < opening ? opening_temperature : temperature;
        float left = exponentials(logits, p, m->vocab, top, 1 / heat) * uniform(state);
        for (token = 0; token < m->vocab - 1 && (left -= p[token]) >= 0;) token++;
        cost += logf(whole) + top - logits[token];
        tokens[pos] = token;
        if (token == 1) {
            *nll = cost / (pos + 1);
            return pos;
        }
    }
    *nll = cost / (seq - 1);
    return -(seq - 1);
}
