/* Norms and rotations, which stand between matrix products: one pass over memory for each, where
 * PyTorch takes three to eight. `build.py` compiles it, `ops.py` says what the arguments are.
 *
 * Numbers are float, or bfloat16 with -DBFLOAT16; arithmetic is float. Strides count numbers.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef BFLOAT16

typedef uint16_t number;

static inline float load(number x)
{
    union { uint32_t bits; float value; } wide = {(uint32_t)x << 16};
    return wide.value;
}

static inline number store(float x) /* to the nearest, of two as near to the even one */
{
    union { float value; uint32_t bits; } wide = {x};
    uint32_t rounded = (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    return x == x ? rounded : 0x7fc0; /* rounding could make a number of a NaN */
}

#else

typedef float number;

static inline float load(number x) { return x; }

static inline number store(float x) { return x; }

#endif

#define PARALLEL _Pragma("omp parallel for num_threads(threads) if (threads > 1)")

void rms_norm(const number *restrict x, ptrdiff_t stride, const number *restrict weight, float eps,
              number *restrict out, ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t size, int threads)
{
    PARALLEL
    for (ptrdiff_t token = 0; token < tokens; token++)
        for (ptrdiff_t head = 0; head < heads; head++) {
            const number *from = x + token * stride + head * size;
            number *to = out + (token * heads + head) * size;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (ptrdiff_t i = 0; i < size; i++)
                sum += load(from[i]) * load(from[i]);
            float scale = 1 / sqrtf(sum / size + eps);
#pragma omp simd
            for (ptrdiff_t i = 0; i < size; i++)
                to[i] = store(load(from[i]) * scale * load(weight[i]));
        }
}

void rotate(const number *restrict x, ptrdiff_t stride, const float *restrict cos,
            const float *restrict sin, ptrdiff_t turn_stride, number *restrict out,
            ptrdiff_t tokens, ptrdiff_t heads, ptrdiff_t pairs, int threads)
{
    PARALLEL
    for (ptrdiff_t token = 0; token < tokens; token++) {
        const float *c = cos + token * turn_stride, *s = sin + token * turn_stride;
        for (ptrdiff_t head = 0; head < heads; head++) {
            const number *from = x + token * stride + head * 2 * pairs;
            number *to = out + (token * heads + head) * 2 * pairs;
#pragma omp simd
            for (ptrdiff_t j = 0; j < pairs; j++) {
                float first = load(from[j]), second = load(from[j + pairs]);
                to[j] = store(first * c[j] - second * s[j]);
                to[j + pairs] = store(second * c[j] + first * s[j]);
            }
        }
    }
}
