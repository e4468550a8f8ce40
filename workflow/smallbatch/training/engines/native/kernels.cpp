// Training steps of small networks, one lane after another, without a framework between the operations.
//
// `memory_layout.py` turns a model into a list of `Op` over `TensorView`; this file runs the list forwards and backwards and
// updates the weights. Activations are [image][row][column][channel] in float32 with a border of zeros where a
// convolution pads, so that the inner loops have no bounds to check; channels come in whole vectors. All sums have a
// fixed order: the same calls give the same bits.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#if defined(__AVX512F__)
constexpr int VL = 16, ACCUMULATORS = 24;
#elif defined(__AVX__)
constexpr int VL = 8, ACCUMULATORS = 12;
#else
constexpr int VL = 4, ACCUMULATORS = 12;
#endif
constexpr int MAX_Q = 4;   // vectors of output channels that a tile holds
constexpr int MAX_P = 16;  // pixels that a tile holds
constexpr int64_t CACHE_FLOATS = 1 << 17;  // that steps in a row may touch: 512 KiB, a part of a second-level cache
constexpr int MAX_CHANNELS = 4096;
constexpr int MAX_FUSED = 8;  // examples up to which the backward pass of a fully connected layer updates its weights

typedef float V __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t M __attribute__((vector_size(VL * 4), aligned(4), may_alias));

static INLINE V load(const float* p) { return *(const V*)p; }
static INLINE void store(float* p, V v) { *(V*)p = v; }
static INLINE V rectified(V v) { return v < 0 ? V{} : v; }  // keeps what is not a number
static INLINE V where_positive(V mask, V v) { return mask > 0 ? v : V{}; }

// The first `count` numbers, the others zero.
static INLINE V only(int count, V v) {
    M index;
    for (int i = 0; i < VL; i++) index[i] = i;
    return index < count ? v : V{};
}

extern "C" {

// A value of the network: `at` floats of each image before it; h x w x c with a border of `pad` zeros. Channels beyond
// those of the model are zero, too, but for what is not a number: every operation keeps them so. The network's input
// alone has no such channels; only convolutions take it.
struct TensorView {
    int64_t at, size;  // floats of an image
    int32_t h, w, c, pad;
};

enum Kind : int32_t { CONV, BATCH_NORM, MAX_POOL, MEAN_POOL, SHORTCUT };

// One operation. Tensors are indices into the list of views, -1 for none; slots are indices into the list of a lane's
// tensors.
struct Op {
    int32_t kind, in, out, residual;      // values
    int32_t d_in, d_out, d_residual;      // gradients; d_in -1: not needed; d_residual -1: shares d_out
    int32_t accumulate, accumulate_residual;  // whether the gradient is added to what is there
    int32_t mask;                         // whether d_in is the last part of a rectified value's gradient
    int32_t relu;                         // whether the result is rectified
    int32_t weight, bias, mean, var;      // slots
    int32_t in_channels, out_channels;    // without padding
    int32_t kernel_h, kernel_w, stride, pad;
    int64_t weight_at, bias_at, transposed_at;  // in the packed weights; in the transposed ones
    int64_t extra_at;                     // floats before what it keeps for the backward pass: statistics or argmax
    float eps;
};

struct Program {
    const Op* ops;
    const TensorView* views;
    int64_t count;
    int32_t input, logits, d_logits, classes;
    int64_t image_floats, arena_floats;  // of an image: of its input without padding, of all that is kept of it
    int64_t statistics_floats;           // whatever the number of images
    int64_t packed_floats, transposed_floats;
};

struct Lane {
    float* const* tensors;  // of each slot, in torch's layout
    float* const* means;    // of each slot: velocities, or running means of gradients; or null
    float* const* squares;  // of each slot: running means of squared gradients; or null
};

enum Optimizer : int32_t { SGD, NESTEROV, ADAM, ADAMW, LION };

struct Rule {  // how gradients change weights: `training/optimizers.py` has the formulas
    int32_t optimizer, decays_biases, decays_norms;
    float decay, beta1, beta2, eps;  // beta1: of SGD the momentum
    float clip;                      // 0: gradients of any norm are taken as they are
};

}  // extern "C"

namespace {

struct Strides {
    ptrdiff_t image, row, pixel;
};

struct Map {  // a tensor view of n images
    float* data;
    Strides by;
    int n, h, w, c, pad;
    float* interior() const { return data + pad * (by.row + by.pixel); }
    float* image(int i) const { return interior() + i * by.image; }
    float* row(int i, int y) const { return image(i) + y * by.row; }
};

int vectors(int channels) { return (channels + VL - 1) / VL; }

// Output channels in blocks of at most MAX_Q vectors, the last one smaller perhaps.
struct Blocks {
    int vectors, width;
    explicit Blocks(int channels) : vectors(::vectors(channels)) {
        int count = (vectors + MAX_Q - 1) / MAX_Q;
        width = (vectors + count - 1) / count;
    }
    int count() const { return (vectors + width - 1) / width; }
    int of(int block) const { return std::min(width, vectors - block * width); }
};

// Where the weights of output vector `v` for input `j` of `depth` begin.
int64_t weight_offset(const Blocks& blocks, int64_t depth, int v, int64_t j) {
    int block = v / blocks.width;
    return (block * depth * blocks.width + j * blocks.of(block) + v % blocks.width) * VL;
}

// ---- Convolutions: y[pixel][q] = sum over patch rows and the numbers of a row ------------------------------------

struct Patch {  // a kernel's view of the input: `rows` rows of `run` floats each, `row` floats apart
    int rows;
    int run;
    ptrdiff_t row;
};

struct Epilogue {  // what happens to a tile before it is stored
    const float* bias = nullptr;
    const float* add = nullptr;
    const float* mask = nullptr;
    Strides by_add{}, by_mask{};
    bool relu = false;
};

template <int P, int Q>
INLINE void multiply(const float* x, ptrdiff_t pixel, const Patch& patch, const float* w, V (&sum)[P][Q]) {
    constexpr int GROUPS = (P + 3) / 4;
    const ptrdiff_t one = pixel, two = 2 * pixel, three = 3 * pixel;
    for (int r = 0; r < patch.rows; r++) {
        const float* at[GROUPS];
#pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) at[g] = x + r * patch.row + 4 * g * pixel;
        for (int j = 0; j < patch.run; j++, w += Q * VL) {
            V weights[Q];
#pragma GCC unroll 8
            for (int q = 0; q < Q; q++) weights[q] = load(w + q * VL);
#pragma GCC unroll 32
            for (int p = 0; p < P; p++) {
                const float* a = at[p / 4];
                const float value = p % 4 == 0 ? a[0] : p % 4 == 1 ? a[one] : p % 4 == 2 ? a[two] : a[three];
#pragma GCC unroll 8
                for (int q = 0; q < Q; q++) sum[p][q] += value * weights[q];
            }
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; g++) {
                at[g]++;
                asm volatile("" : "+r"(at[g]));  // four pixels share a pointer; else there are too few registers
            }
        }
    }
}

template <int P, int Q>
void tile(const float* x, ptrdiff_t x_pixel, const Patch& patch, const float* w, float* y, ptrdiff_t y_pixel,
          const Epilogue& epilogue, ptrdiff_t add_at, ptrdiff_t mask_at) {
    V sum[P][Q];
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) sum[p][q] = V{};
    multiply<P, Q>(x, x_pixel, patch, w, sum);
#pragma GCC unroll 32
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) {
            V v = sum[p][q];
            // The bias last: a large one would cost the sum its last digits.
            if (epilogue.bias) v += load(epilogue.bias + q * VL);
            if (epilogue.add) v += load(epilogue.add + add_at + p * epilogue.by_add.pixel + q * VL);
            if (epilogue.relu) v = rectified(v);
            if (epilogue.mask)
                v = where_positive(load(epilogue.mask + mask_at + p * epilogue.by_mask.pixel + q * VL), v);
            store(y + p * y_pixel + q * VL, v);
        }
}

using Tile = decltype(&tile<1, 1>);

template <int Q, size_t... P>
constexpr std::array<Tile, sizeof...(P)> tiles_of(std::index_sequence<P...>) {
    return {(P + 1) * Q <= ACCUMULATORS ? &tile<((P + 1) * Q <= ACCUMULATORS ? P + 1 : 1), Q> : nullptr...};
}
constexpr std::array<std::array<Tile, MAX_P>, MAX_Q> TILES = {
    tiles_of<1>(std::make_index_sequence<MAX_P>()), tiles_of<2>(std::make_index_sequence<MAX_P>()),
    tiles_of<3>(std::make_index_sequence<MAX_P>()), tiles_of<4>(std::make_index_sequence<MAX_P>())};

// Calls do(first, size) for parts of `count` of at most `most`, of about equal size.
template <class Do>
INLINE void in_parts(int count, int most, Do&& act) {
    int parts = (count + most - 1) / most;
    for (int i = 0, first = 0; i < parts; i++) {
        int size = (count - first + parts - i - 1) / (parts - i);
        act(first, size);
        first += size;
    }
}

// x and y point to the first patch and the first result.
void convolve(const float* x, Strides bx, const Patch& patch, const float* w, int channels, float* y, Strides by,
              int n, int h, int width, Epilogue epilogue) {
    if (h * width == 1) {  // the images take the place of pixels
        width = n, n = 1;
        bx.pixel = bx.image, by.pixel = by.image;
        epilogue.by_add.pixel = epilogue.by_add.image, epilogue.by_mask.pixel = epilogue.by_mask.image;
    }
    Blocks blocks(channels);
    const int64_t depth = int64_t(patch.rows) * patch.run;
    for (int b = 0; b < blocks.count(); b++) {
        const int q = blocks.of(b), most = std::min(MAX_P, ACCUMULATORS / q);
        const ptrdiff_t c = ptrdiff_t(b) * blocks.width * VL;
        const float* weights = w + depth * c;
        Epilogue of_channels = epilogue;
        if (epilogue.bias) of_channels.bias += c;
        for (int i = 0; i < n; i++)
            for (int r = 0; r < h; r++)
                in_parts(width, most, [&](int first, int size) {
                    auto at = [&](Strides by) { return i * by.image + r * by.row + first * by.pixel; };
                    TILES[q - 1][size - 1](x + at(bx), bx.pixel, patch, weights, y + at(by) + c, by.pixel, of_channels,
                                           at(epilogue.by_add) + c, at(epilogue.by_mask) + c);
                });
    }
}

// ---- Gradients of weights: g[input][q] = sum over pixels of x[input] * dy[q] ---------------------------------------

template <int I, int Q>
void weight_tile(const float* x, Strides bx, const float* dy, Strides bd, int n, int h, int width, float* g,
                 ptrdiff_t g_row, bool add) {
    V sum[I][Q];
#pragma GCC unroll 32
    for (int i = 0; i < I; i++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) sum[i][q] = add ? load(g + i * g_row + q * VL) : V{};
    for (int image = 0; image < n; image++)
        for (int r = 0; r < h; r++) {
            const float* px = x + image * bx.image + r * bx.row;
            const float* pd = dy + image * bd.image + r * bd.row;
            for (int p = 0; p < width; p++, px += bx.pixel, pd += bd.pixel) {
                V d[Q];
#pragma GCC unroll 8
                for (int q = 0; q < Q; q++) d[q] = load(pd + q * VL);
#pragma GCC unroll 32
                for (int i = 0; i < I; i++)
#pragma GCC unroll 8
                    for (int q = 0; q < Q; q++) sum[i][q] += px[i] * d[q];
            }
        }
#pragma GCC unroll 32
    for (int i = 0; i < I; i++)
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) store(g + i * g_row + q * VL, sum[i][q]);
}

using WeightTile = decltype(&weight_tile<1, 1>);

template <int Q, size_t... I>
constexpr std::array<WeightTile, sizeof...(I)> weight_tiles_of(std::index_sequence<I...>) {
    return {(I + 1) * Q <= ACCUMULATORS ? &weight_tile<((I + 1) * Q <= ACCUMULATORS ? I + 1 : 1), Q> : nullptr...};
}
constexpr std::array<std::array<WeightTile, ACCUMULATORS>, MAX_Q> WEIGHT_TILES = {
    weight_tiles_of<1>(std::make_index_sequence<ACCUMULATORS>()),
    weight_tiles_of<2>(std::make_index_sequence<ACCUMULATORS>()),
    weight_tiles_of<3>(std::make_index_sequence<ACCUMULATORS>()),
    weight_tiles_of<4>(std::make_index_sequence<ACCUMULATORS>())};

void weight_gradient(const float* x, Strides bx, const Patch& patch, const float* dy, Strides bd, int channels, int n,
                     int h, int width, float* g, bool add) {
    if (h * width == 1) width = n, n = 1, bx.pixel = bx.image, bd.pixel = bd.image;
    Blocks blocks(channels);
    const int64_t depth = int64_t(patch.rows) * patch.run;
    for (int b = 0; b < blocks.count(); b++) {
        const int q = blocks.of(b);
        const ptrdiff_t c = ptrdiff_t(b) * blocks.width * VL;
        for (int r = 0; r < patch.rows; r++)
            in_parts(patch.run, ACCUMULATORS / q, [&](int first, int size) {
                float* to = g + depth * c + (int64_t(r) * patch.run + first) * q * VL;
                WEIGHT_TILES[q - 1][size - 1](x + r * patch.row + first, bx, dy + c, bd, n, h, width, to, q * VL, add);
            });
    }
}

void bias_gradient(const Map& dy, float* g, bool add) {
    for (int c = 0; c < dy.c; c += VL) {
        V total = add ? load(g + c) : V{};
        for (int i = 0; i < dy.n; i++)
            for (int y = 0; y < dy.h; y++) {
                V sum{};
                const float* p = dy.row(i, y) + c;
                for (int x = 0; x < dy.w; x++) sum += load(p + x * dy.by.pixel);
                total += sum;
            }
        store(g + c, total);
    }
}

// ---- Transposition of VL x VL blocks ------------------------------------------------------------------------------

template <int D, size_t... K>
INLINE void exchange(V& a, V& b, std::index_sequence<K...>) {
    V low = __builtin_shufflevector(a, b, ((K & D) ? int(VL + K - D) : int(K))...);
    b = __builtin_shufflevector(a, b, ((K & D) ? int(VL + K) : int(K + D))...);
    a = low;
}

template <int D>
INLINE void transpose_stage(V (&r)[VL]) {
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (!(i & D)) exchange<D>(r[i], r[i + D], std::make_index_sequence<VL>());
}

INLINE void transpose(V (&r)[VL]) {
    transpose_stage<1>(r);
    transpose_stage<2>(r);
    if constexpr (VL >= 8) transpose_stage<4>(r);
    if constexpr (VL >= 16) transpose_stage<8>(r);
}

// Transposes input channels first ... first + count - 1 of the packed weights: they become the output channels, of which
// vector blocks begin at `transposed`, and the output channels become the inputs `at` and following of `depth`.
void transpose_channels(const Blocks& from, int64_t from_depth, const float* packed, int64_t first, int count,
                        float* transposed, int64_t depth, int64_t at) {
    Blocks to(count);
    for (int o = 0; o < from.vectors; o++)
        for (int i = 0; i < to.vectors; i++) {
            V r[VL];
            const float* w = packed + weight_offset(from, from_depth, o, first + i * VL);
            const int64_t step = from.of(o / from.width) * VL;
#pragma GCC unroll 16
            for (int k = 0; k < VL; k++) r[k] = load(w + k * step);
            transpose(r);
            float* t = transposed + weight_offset(to, depth, i, at + o * VL);
            const int64_t transposed_step = to.of(i / to.width) * VL;
#pragma GCC unroll 16
            for (int k = 0; k < VL; k++) store(t + k * transposed_step, r[k]);
        }
}

// A convolution whose kernel covers the image: a fully connected layer.
bool covers(const Op& op, const TensorView& in) { return op.kernel_h == in.h && op.kernel_w == in.w && op.pad == 0; }

// The kernel's taps that reach input pixels of phase r (mod stride) are r, r + stride, ...; how many.
int taps(int kernel, int stride, int phase) { return phase < kernel ? (kernel - phase + stride - 1) / stride : 0; }

// The weights as the backward pass multiplies by them, with input and output channels exchanged: of a fully connected
// layer row by row of the image; else for each phase of the stride the kernel's taps in reverse.
void transpose_weights(const Op& op, const TensorView& in, const TensorView& out, const float* packed,
                       float* transposed) {
    const Blocks from(out.c);
    const int run = op.kernel_w * in.c;
    const int64_t depth = int64_t(op.kernel_h) * run;
    packed += op.weight_at, transposed += op.transposed_at;
    if (covers(op, in)) {
        for (int y = 0; y < op.kernel_h; y++, transposed += int64_t(run) * out.c)
            transpose_channels(from, depth, packed, int64_t(y) * run, run, transposed, out.c, 0);
        return;
    }
    for (int ry = 0; ry < op.stride; ry++)
        for (int rx = 0; rx < op.stride; rx++) {
            const int ty = taps(op.kernel_h, op.stride, ry), tx = taps(op.kernel_w, op.stride, rx);
            const int64_t transposed_depth = int64_t(ty) * tx * out.c;
            for (int y = 0; y < ty; y++)
                for (int x = 0; x < tx; x++) {
                    const int ky = ry + (ty - 1 - y) * op.stride, kx = rx + (tx - 1 - x) * op.stride;
                    transpose_channels(from, depth, packed, int64_t(ky) * run + kx * in.c, in.c, transposed,
                                       transposed_depth, (int64_t(y) * tx + x) * out.c);
                }
            transposed += transposed_depth * in.c;
        }
}

// ---- A network on the images of one lane ---------------------------------------------------------------------------

// What one operation does in one go over some images. Batch norm is two such things in either direction: sums over all
// images, then their use.
enum Phase { ALL, SUMS, USE };

struct Step {
    const Op* op;
    Phase phase;
};

// A fused stage: steps that are run one after the other on a few images at a time, which stay in the cache. It ends
// where sums over all images are due, and where fully connected layers begin or end: these run on all images at once, so
// that their weights are read once.
struct FusedStage {
    std::vector<Step> steps;
    int images;  // at a time
};

// What the classes of examples are: a label each, or targets of all classes each; the other is null.
struct Labels {
    const int64_t* labels;
    const float* targets;

    Labels from(int64_t example, int classes) const {
        return {labels ? labels + example : nullptr, targets ? targets + example * classes : nullptr};
    }
};

class Network {
   public:
    // `arena` holds a micro-batch, of which `images` are used; nothing in it moves, so that borders stay zero.
    Network(const Program& program, int images, int64_t micro_batch, float* arena, float* statistics)
        : program_(program), images_(images), micro_batch_(micro_batch), arena_(arena), statistics_(statistics) {
        for (int64_t k = 0; k < program.count; k++) extend(forward_, program.ops[k]);
        for (int64_t k = program.count - 1; k >= 0; k--) extend(backward_, program.ops[k]);
        for (FusedStage& stage : forward_) stage.images = at_a_time(stage, false);
        for (FusedStage& stage : backward_) stage.images = at_a_time(stage, true);
        look_at(0, images_);
    }

    Map map(int view) const {
        const TensorView& v = program_.views[view];
        const ptrdiff_t row = ptrdiff_t(v.w + 2 * v.pad) * v.c;
        return {arena_ + v.at * micro_batch_ + first_ * v.size, {v.size, row, v.c}, n_, v.h, v.w, v.c, v.pad};
    }

    // Images come as torch has them, [channel][row][column], `step` floats apart.
    void take(const float* images, ptrdiff_t step) const {
        Map to = map(program_.input);
        for (int i = 0; i < n_; i++)
            for (int c = 0; c < to.c; c++)
                for (int y = 0; y < to.h; y++) {
                    const float* from = images + i * step + (int64_t(c) * to.h + y) * to.w;
                    float* row = to.row(i, y) + c;
                    for (int x = 0; x < to.w; x++) row[x * to.c] = from[x];
                }
    }

    void forward(const float* packed, const Lane& lane, bool training) {
        run(forward_, [&](const Step& step) {
            const Op& op = *step.op;
            switch (op.kind) {
                case CONV: conv_forward(op, packed); break;
                case BATCH_NORM:
                    if (step.phase == USE) {
                        if (first_ == 0) norm_begin(op, packed, lane, training);
                        norm_forward(op);
                    } else if (training) {
                        norm_sums(op);
                    }
                    break;
                case MAX_POOL: max_pool_forward(op); break;
                case MEAN_POOL: mean_pool_forward(op); break;
                case SHORTCUT: shortcut_forward(op); break;
            }
        });
    }

    // Cross-entropy; leaves its gradient, of the mean over `batch` examples, in d_logits. Returns the sum of the losses.
    double loss(const Labels& labels, ptrdiff_t step, float batch, float smoothing) const {
        Map logits = map(program_.logits), d = map(program_.d_logits);
        const int classes = program_.classes;
        double total = 0;
        for (int i = 0; i < n_; i++) {
            const float* x = logits.image(i);
            float* g = d.image(i);
            float most = x[0];
            for (int k = 1; k < classes; k++) most = std::max(most, x[k]);
            float sum = 0;
            for (int k = 0; k < classes; k++) sum += g[k] = std::exp(x[k] - most);
            for (int k = 0; k < classes; k++) g[k] = g[k] / sum / batch;
            std::fill(g + classes, g + d.c, 0.0f);  // its memory may have been another gradient's
            if (labels.targets) {
                const float* targets = labels.targets + i * step * classes;
                total += towards(x, g, targets, std::log(sum) + most, classes, batch, smoothing);
                continue;
            }
            const int64_t label = labels.labels[i * step];
            g[label] -= 1 / batch;
            total += std::log(sum) + most - x[label];
            if (smoothing > 0) total += smooth(x, g, label, classes, batch, smoothing);
        }
        return total;
    }

    // Takes the targets, which sum to 1, smoothed, from the gradient; returns the loss. `norm` is the log of the sum of
    // the exponentials.
    static double towards(const float* x, float* g, const float* targets, double norm, int classes, float batch,
                          float smoothing) {
        double loss = 0;
        for (int k = 0; k < classes; k++) {
            const float target = (1 - smoothing) * targets[k] + smoothing / float(classes);
            loss += target * (norm - x[k]);
            g[k] -= target / batch;
        }
        return loss;
    }

    // Takes a part of the target from the label and spreads it over all classes; returns what that adds to the loss.
    static double smooth(const float* x, float* g, int64_t label, int classes, float batch, float smoothing) {
        double mean = 0;
        for (int k = 0; k < classes; k++) {
            mean += x[k];
            g[k] -= smoothing / float(classes) / batch;
        }
        g[label] += smoothing / batch;
        return smoothing * (x[label] - mean / classes);
    }

    // `fused`: fully connected layers update their weights at once, at `negative_rate` and `decay`.
    void backward(float* packed, float* gradient, const float* transposed, bool add, bool fused, float negative_rate,
                  float decay) {
        run(backward_, [&](const Step& step) {
            const Op& op = *step.op;
            const bool more = add || first_ > 0;
            switch (op.kind) {
                case CONV: conv_backward(op, packed, gradient, transposed, more, fused, negative_rate, decay); break;
                case BATCH_NORM:
                    if (step.phase == SUMS) {
                        norm_backward_sums(op);
                    } else {
                        if (first_ == 0) norm_backward_begin(op, packed, gradient, add);
                        norm_backward(op);
                    }
                    break;
                case MAX_POOL: max_pool_backward(op); break;
                case MEAN_POOL: mean_pool_backward(op); break;
                case SHORTCUT: shortcut_backward(op); break;
            }
        });
    }

    // Whether the backward pass of `op` can update its weights itself.
    bool fuses(const Op& op) const {
        return connects(op) && images_ <= MAX_FUSED;
    }

   private:
    const Program& program_;
    const int images_;
    const int64_t micro_batch_;
    float* const arena_;
    float* const statistics_;
    std::vector<FusedStage> forward_, backward_;
    int first_, n_;  // the images that are looked at

    void look_at(int first, int count) { first_ = first, n_ = count; }

    // Runs every stage on all images; looks at all of them again in the end.
    template <class Do>
    void run(const std::vector<FusedStage>& stages, Do&& act) {
        for (const FusedStage& stage : stages)
            for (int first = 0; first < images_; first += stage.images) {
                look_at(first, std::min(stage.images, images_ - first));
                for (const Step& step : stage.steps) act(step);
            }
        look_at(0, images_);
    }

    bool connects(const Op& op) const { return op.kind == CONV && covers(op, program_.views[op.in]); }

    void extend(std::vector<FusedStage>& stages, const Op& op) const {
        const bool norm = op.kind == BATCH_NORM;
        const bool other = !norm && !stages.empty() && !stages.back().steps.empty() &&
                           stages.back().steps.back().phase == ALL &&
                           connects(*stages.back().steps.back().op) != connects(op);
        if (stages.empty() || other) stages.push_back({});
        stages.back().steps.push_back({&op, norm ? SUMS : ALL});
        if (norm) stages.push_back({{{&op, USE}}, 0});
    }

    // As many images as leave space in the cache for what the steps touch.
    int at_a_time(const FusedStage& stage, bool backward) const {
        int64_t floats = 0;
        for (const Step& step : stage.steps) {
            const Op& op = *step.op;
            if (connects(op)) return images_;
            for (int view : {op.out, backward ? op.in : -1, backward ? op.d_in : -1, backward ? op.d_out : -1})
                if (view >= 0) floats += program_.views[view].size;
        }
        return int(std::clamp<int64_t>(CACHE_FLOATS / std::max<int64_t>(1, floats), 1, images_));
    }

    static Strides none() { return {0, 0, 0}; }

    Patch patch(const Op& op, const Map& in) const { return {op.kernel_h, op.kernel_w * in.c, in.by.row}; }

    // The first patch's first float: the border of the view may be wider than the padding of this convolution.
    const float* first_patch(const Op& op, const Map& in) const {
        return in.interior() - op.pad * (in.by.row + in.by.pixel);
    }

    Strides patch_strides(const Op& op, const Map& in) const {
        return {in.by.image, op.stride * in.by.row, op.stride * in.by.pixel};
    }

    void conv_forward(const Op& op, const float* packed) const {
        Map x = map(op.in), y = map(op.out);
        Epilogue epilogue;
        epilogue.relu = op.relu;
        if (op.bias >= 0) epilogue.bias = packed + op.bias_at;
        if (op.residual >= 0) {
            Map r = map(op.residual);
            epilogue.add = r.interior(), epilogue.by_add = r.by;
        }
        convolve(first_patch(op, x), patch_strides(op, x), patch(op, x), packed + op.weight_at, y.c, y.interior(),
                 y.by, n_, y.h, y.w, epilogue);
    }

    void conv_backward(const Op& op, float* packed, float* gradient, const float* transposed, bool add, bool fused,
                       float negative_rate, float decay) const {
        Map x = map(op.in), dy = map(op.d_out);
        pass_residual(op, dy);
        if (op.bias >= 0) bias_gradient(dy, gradient + op.bias_at, add);
        if (fused && fuses(op)) {
            fused_backward(op, packed + op.weight_at, x, dy, negative_rate, decay);
            return;
        }
        if (op.d_in >= 0) data_gradient(op, transposed + op.transposed_at, x, dy);
        weight_gradient(first_patch(op, x), patch_strides(op, x), patch(op, x), dy.interior(), dy.by, dy.c, n_, dy.h,
                        dy.w, gradient + op.weight_at, add);
    }

    void data_gradient(const Op& op, const float* transposed, const Map& x, const Map& dy) const {
        Map dx = map(op.d_in);
        if (covers(op, program_.views[op.in])) {
            const int run = dx.w * dx.c;
            for (int y = 0; y < dx.h; y++, transposed += int64_t(run) * dy.c) {
                Epilogue epilogue;
                if (op.accumulate) epilogue.add = dx.row(0, y), epilogue.by_add = dx.by;
                if (op.mask) epilogue.mask = x.row(0, y), epilogue.by_mask = x.by;
                convolve(dy.interior(), dy.by, {1, dy.c, 0}, transposed, run, dx.row(0, y), dx.by, n_, 1, 1, epilogue);
            }
            return;
        }
        const int s = op.stride;
        for (int ry = 0; ry < s; ry++)
            for (int rx = 0; rx < s; rx++) {
                const int ty = taps(op.kernel_h, s, ry), tx = taps(op.kernel_w, s, rx);
                // Input pixel i with (i + pad) mod s = r, of which the first is i0, sees output (i + pad) / s and before.
                const int y0 = ((ry - op.pad) % s + s) % s, x0 = ((rx - op.pad) % s + s) % s;
                const int h = (dx.h - y0 + s - 1) / s, w = (dx.w - x0 + s - 1) / s;
                const Strides by{dx.by.image, s * dx.by.row, s * dx.by.pixel};
                float* to = dx.interior() + y0 * dx.by.row + x0 * dx.by.pixel;
                Epilogue epilogue;
                if (op.accumulate) epilogue.add = to, epilogue.by_add = by;
                if (op.mask) {
                    epilogue.mask = x.interior() + y0 * x.by.row + x0 * x.by.pixel;
                    epilogue.by_mask = {x.by.image, s * x.by.row, s * x.by.pixel};
                }
                const float* from = dy.interior() + ((y0 + op.pad) / s - ty + 1) * dy.by.row +
                                    ((x0 + op.pad) / s - tx + 1) * dy.by.pixel;
                if (h > 0 && w > 0)
                    convolve(from, dy.by, {ty, tx * dy.c, dy.by.row}, transposed, dx.c, to, by, n_, h, w, epilogue);
                transposed += int64_t(ty) * tx * dy.c * dx.c;
            }
    }

    // w <- w + negative_rate * (x dy + decay * w) and dx = dy w in one pass over w: for few examples w is what has to be
    // moved.
    void fused_backward(const Op& op, float* w, const Map& x, const Map& dy, float negative_rate, float decay) const {
        Blocks blocks(dy.c);
        const int64_t run = int64_t(op.kernel_w) * x.c, depth = op.kernel_h * run;
        const bool needed = op.d_in >= 0;
        Map dx = needed ? map(op.d_in) : x;
        for (int b = 0; b < blocks.count(); b++) {
            const int q = blocks.of(b);
            const ptrdiff_t c = ptrdiff_t(b) * blocks.width * VL;
            const bool last = b + 1 == blocks.count(), add = b > 0 || op.accumulate;
            for (int r = 0; r < op.kernel_h; r++)
                for (int64_t first = 0; first < run; first += VL)
                    for (int i = 0; i < n_; i += 2) {
                        const bool update = i + 2 >= n_;
                        FUSED[q - 1](*this, w + depth * c + (r * run + first) * q * VL, x, dx, dy, i, r, first, c,
                                     std::min<int64_t>(VL, run - first), negative_rate, decay, needed, add,
                                     needed && last && op.mask, update);
                    }
        }
    }

    using Fused = void (*)(const Network&, float*, const Map&, const Map&, const Map&, int, int, int64_t, ptrdiff_t,
                           int, float, float, bool, bool, bool, bool);
    static const std::array<Fused, MAX_Q> FUSED;

    // For up to VL inputs of w and two examples.
    template <int Q>
    static void fused_tile(const Network& net, float* w, const Map& x, const Map& dx, const Map& dy, int i, int r,
                           int64_t first, ptrdiff_t c, int inputs, float negative_rate, float decay, bool needed,
                           bool add, bool mask, bool update) {
        const int both = i + 1 < net.n_ ? 2 : 1;
        if (needed)
            for (int e = 0; e < both; e++) {
                V sums[VL];
                const float* d = dy.image(i + e) + c;
                for (int k = 0; k < VL; k++) sums[k] = V{};
                for (int k = 0; k < inputs; k++) {
                    V sum{};
#pragma GCC unroll 8
                    for (int q = 0; q < Q; q++) sum += load(w + (k * Q + q) * VL) * load(d + q * VL);
                    sums[k] = sum;
                }
                transpose(sums);
                V total = sums[0];
#pragma GCC unroll 16
                for (int k = 1; k < VL; k++) total += sums[k];
                float* to = dx.row(i + e, r) + first;
                if (add) total += load(to);
                if (mask) total = where_positive(load(x.row(i + e, r) + first), total);
                store(to, total);
            }
        if (!update) return;
        for (int k = 0; k < inputs; k++)
#pragma GCC unroll 8
            for (int q = 0; q < Q; q++) {
                float* p = w + (k * Q + q) * VL;
                V g{};
                for (int e = 0; e < net.n_; e++)
                    g += x.row(e, r)[first + k] * load(dy.image(e) + c + q * VL);
                store(p, load(p) + negative_rate * (g + decay * load(p)));
            }
    }

    // A residual's gradient is that of the sum.
    void pass_residual(const Op& op, const Map& dy) const {
        if (op.residual < 0 || op.d_residual < 0) return;
        Map d = map(op.d_residual);
        for (int i = 0; i < n_; i++)
            for (int y = 0; y < d.h; y++)
                for (int k = 0; k < d.w * d.c; k += VL) {
                    float* to = d.row(i, y) + k;
                    V v = load(dy.row(i, y) + k);
                    store(to, op.accumulate_residual ? load(to) + v : v);
                }
    }

    // What batch norm keeps, channel by channel.
    struct Kept {
        float *mean, *inverse;   // of this batch; 1 / deviation
        float *means, *vars;     // summed over the sub-batches of a mini-batch, for the running statistics
        float* guess;            // of the mean
        double *sum, *products;  // over the images so far
    };

    Kept kept(const Op& op) const {
        const int c = program_.views[op.in].c;
        float* at = statistics_ + op.extra_at;
        double* sums = reinterpret_cast<double*>(at + 5 * c + 5 * c % 2);
        return {at, at + c, at + 2 * c, at + 3 * c, at + 4 * c, sums, sums + c};
    }

    // Sums of f(x) = {a, b} over the images, by rows, then by images, then in double precision.
    template <class F>
    void add_up(const Map& x, const Kept& keep, F&& f) const {
        for (int k = 0; k < x.c; k += VL)
            for (int i = 0; i < n_; i++) {
                V s{}, t{};
                for (int row = 0; row < x.h; row++) {
                    V rs[2] = {}, rt[2] = {};
                    int p = 0;
                    for (; p + 2 <= x.w; p += 2)
#pragma GCC unroll 2
                        for (int u = 0; u < 2; u++) f(i, row, (p + u) * x.c + k, k, rs[u], rt[u]);
                    if (p < x.w) f(i, row, p * x.c + k, k, rs[0], rt[0]);
                    s += rs[0] + rs[1];
                    t += rt[0] + rt[1];
                }
                for (int u = 0; u < VL; u++) keep.sum[k + u] += s[u], keep.products[k + u] += t[u];
            }
    }

    void clear_sums(const Kept& keep, int channels) const {
        std::fill_n(keep.sum, channels, 0.0);
        std::fill_n(keep.products, channels, 0.0);
    }

    // Deviations from a first guess of the mean keep the sums of squares free of cancellation.
    void norm_sums(const Op& op) const {
        Map x = map(op.in);
        Kept keep = kept(op);
        if (first_ == 0) {
            clear_sums(keep, x.c);
            for (int k = 0; k < x.c; k += VL) {
                V guess{};
                for (int p = 0; p < x.w; p++) guess += load(x.row(0, 0) + p * x.c + k);
                store(keep.guess + k, guess / float(x.w));
            }
        }
        add_up(x, keep, [&](int i, int row, int at, int k, V& sum, V& squares) {
            const V d = load(x.row(i, row) + at) - load(keep.guess + k);
            sum += d;
            squares += d * d;
        });
    }

    void norm_begin(const Op& op, const float* packed, const Lane& lane, bool training) {
        const TensorView& x = program_.views[op.in];
        Kept keep = kept(op);
        const double count = double(images_) * x.h * x.w;
        for (int k = 0; k < x.c; k++) {
            const bool real = k < op.in_channels;
            float var = 0;
            if (!real) keep.mean[k] = 0;
            if (training && real) {
                const double off = keep.sum[k] / count, square = keep.products[k] / count - off * off;
                keep.mean[k] = float(keep.guess[k] + off);
                var = square < 0 ? 0 : float(square);  // not a number stays so
                keep.means[k] += keep.mean[k];
                keep.vars[k] += float(var * (count / (count - 1)));
            } else if (real) {
                keep.mean[k] = lane.tensors[op.mean][k];
                var = lane.tensors[op.var][k];
            }
            // Of a variance beyond float32 zero, as with torch: then the channel is its shift, and learns nothing.
            keep.inverse[k] = real ? 1 / std::sqrt(var + op.eps) : 0;
            scale_[k] = packed[op.weight_at + k] * keep.inverse[k];
            shift_[k] = packed[op.bias_at + k] - keep.mean[k] * scale_[k];
        }
    }

    void norm_forward(const Op& op) const {
        Map x = map(op.in), y = map(op.out);
        const bool adds = op.residual >= 0;
        Map r = adds ? map(op.residual) : x;
        for (int i = 0; i < n_; i++)
            for (int row = 0; row < x.h; row++) {
                const float *px = x.row(i, row), *pr = r.row(i, row);
                float* py = y.row(i, row);
                for (int p = 0; p < x.w; p++)
                    for (int k = 0; k < x.c; k += VL) {
                        const int at = p * x.c + k;
                        V v = load(px + at) * load(scale_ + k) + load(shift_ + k);
                        if (adds) v += load(pr + at);
                        store(py + at, op.relu ? rectified(v) : v);
                    }
            }
    }

    // What x is counted in by the backward pass: 1, but about the deviation where its third power, or the product of dy
    // and x, would leave float32. A power of two, so that only the range changes and no digit.
    static V unit(V inverse) {
        const V power = (V)((M)inverse & 0x7f800000);
        const V small = inverse > 0 ? power : V{} + 0x1p-100f;
        return inverse < 0x1p-20f ? small : V{} + 1;
    }

    void norm_backward_sums(const Op& op) const {
        Map x = map(op.in), dy = map(op.d_out);
        Kept keep = kept(op);
        if (first_ == 0) clear_sums(keep, x.c);
        add_up(x, keep, [&](int i, int row, int at, int k, V& sum, V& products) {
            const V d = load(dy.row(i, row) + at);
            sum += d;
            products += d * ((load(x.row(i, row) + at) - load(keep.mean + k)) * unit(load(keep.inverse + k)));
        });
    }

    // dx = gamma / deviation * (dy - mean(dy) - normalised x * mean(dy * normalised x)), with x counted in units:
    // (scale * dy + slope * x + shift) * unit.
    void norm_backward_begin(const Op& op, const float* packed, float* gradient, bool add) {
        const TensorView& x = program_.views[op.in];
        Kept keep = kept(op);
        float *d_gamma = gradient + op.weight_at, *d_beta = gradient + op.bias_at;
        const float count = float(double(images_) * x.h * x.w);
        for (int k = 0; k < x.c; k += VL) store(unit_ + k, unit(load(keep.inverse + k)));
        for (int k = 0; k < x.c; k++) {
            const float inverse = keep.inverse[k] / unit_[k], gamma = packed[op.weight_at + k];
            const float sum = float(keep.sum[k]), product = float(keep.products[k]);
            d_gamma[k] = (add ? d_gamma[k] : 0) + product * inverse;
            d_beta[k] = (add ? d_beta[k] : 0) + sum;
            scale_[k] = gamma * inverse;
            slope_[k] = -gamma * inverse * inverse * inverse * product / count;
            shift_[k] = -gamma * inverse * sum / count - slope_[k] * (keep.mean[k] * unit_[k]);
        }
    }

    void norm_backward(const Op& op) const {
        Map x = map(op.in), dy = map(op.d_out), dx = map(op.d_in);
        pass_residual(op, dy);
        for (int i = 0; i < n_; i++)
            for (int row = 0; row < x.h; row++) {
                const float *px = x.row(i, row), *pd = dy.row(i, row);
                float* to = dx.row(i, row);
                for (int p = 0; p < x.w; p++)
                    for (int k = 0; k < x.c; k += VL) {
                        const int at = p * x.c + k;
                        const V unit = load(unit_ + k);
                        V v = load(scale_ + k) * load(pd + at) +
                              (load(slope_ + k) * (load(px + at) * unit) + load(shift_ + k));
                        v *= unit;
                        if (op.accumulate) v += load(to + at);
                        if (op.mask) v = where_positive(load(px + at), v);
                        store(to + at, v);
                    }
            }
    }

    alignas(64) float scale_[MAX_CHANNELS], shift_[MAX_CHANNELS], slope_[MAX_CHANNELS], unit_[MAX_CHANNELS];

    // The index of each maximum in its window, as numbers of the same width as the values.
    int32_t* argmax_of(const Op& op) const {
        return reinterpret_cast<int32_t*>(arena_ + op.extra_at * micro_batch_) + first_ * argmax_count(op);
    }
    int64_t argmax_count(const Op& op) const {
        const TensorView& y = program_.views[op.out];
        return int64_t(y.h) * y.w * y.c;
    }

    void max_pool_forward(const Op& op) const {
        Map x = map(op.in), y = map(op.out);
        int32_t* argmax = argmax_of(op);
        for (int i = 0; i < n_; i++)
            for (int oy = 0; oy < y.h; oy++)
                for (int ox = 0; ox < y.w; ox++) {
                    const int top = oy * op.stride - op.pad, left = ox * op.stride - op.pad;
                    const int y0 = std::max(0, top), y1 = std::min(x.h, top + op.kernel_h);
                    const int x0 = std::max(0, left), x1 = std::min(x.w, left + op.kernel_w);
                    for (int k = 0; k < x.c; k += VL, argmax += VL) {
                        V best = V{} - std::numeric_limits<float>::infinity();
                        M index{};
                        for (int iy = y0; iy < y1; iy++)
                            for (int ix = x0; ix < x1; ix++) {
                                const V v = load(x.row(i, iy) + ix * x.c + k);
                                const M better = (v > best) | (v != v);  // what is not a number goes on
                                best = better ? v : best;
                                index = better ? M{} + ((iy - top) * op.kernel_w + ix - left) : index;
                            }
                        store(y.row(i, oy) + ox * y.c + k, best);
                        *(M*)argmax = index;
                    }
                }
    }

    // Each input pixel collects from the windows that it lies in.
    void max_pool_backward(const Op& op) const {
        Map x = map(op.in), dy = map(op.d_out), dx = map(op.d_in);
        const int s = op.stride;
        for (int i = 0; i < n_; i++) {
            const int32_t* argmax = argmax_of(op) + int64_t(i) * dy.h * dy.w * dy.c;
            for (int iy = 0; iy < x.h; iy++) {
                const int first_y = std::max(0, (iy + op.pad - op.kernel_h + s) / s);
                const int last_y = std::min(dy.h - 1, (iy + op.pad) / s);
                for (int ix = 0; ix < x.w; ix++) {
                    const int first_x = std::max(0, (ix + op.pad - op.kernel_w + s) / s);
                    const int last_x = std::min(dy.w - 1, (ix + op.pad) / s);
                    for (int k = 0; k < x.c; k += VL) {
                        float* to = dx.row(i, iy) + ix * x.c + k;
                        V sum = op.accumulate ? load(to) : V{};
                        for (int oy = first_y; oy <= last_y; oy++)
                            for (int ox = first_x; ox <= last_x; ox++) {
                                const int tap = (iy + op.pad - oy * s) * op.kernel_w + ix + op.pad - ox * s;
                                const M is_max = *(const M*)(argmax + (int64_t(oy) * dy.w + ox) * dy.c + k) == tap;
                                sum += is_max ? load(dy.row(i, oy) + ox * dy.c + k) : V{};
                            }
                        if (op.mask) sum = where_positive(load(x.row(i, iy) + ix * x.c + k), sum);
                        store(to, sum);
                    }
                }
            }
        }
    }

    // Windows of kernel_h x kernel_w side by side.
    void mean_pool_forward(const Op& op) const {
        Map x = map(op.in), y = map(op.out);
        const float scale = 1.0f / float(op.kernel_h * op.kernel_w);
        for (int i = 0; i < n_; i++)
            for (int oy = 0; oy < y.h; oy++)
                for (int ox = 0; ox < y.w; ox++)
                    for (int k = 0; k < x.c; k += VL) {
                        V sum{};
                        for (int ky = 0; ky < op.kernel_h; ky++) {
                            const float* p = x.row(i, oy * op.kernel_h + ky) + ox * op.kernel_w * x.c + k;
                            for (int kx = 0; kx < op.kernel_w; kx++) sum += load(p + kx * x.c);
                        }
                        store(y.row(i, oy) + ox * y.c + k, sum * scale);
                    }
    }

    void mean_pool_backward(const Op& op) const {
        Map x = map(op.in), dy = map(op.d_out), dx = map(op.d_in);
        const float scale = 1.0f / float(op.kernel_h * op.kernel_w);
        for (int i = 0; i < n_; i++)
            for (int iy = 0; iy < x.h; iy++)
                for (int ix = 0; ix < x.w; ix++)
                    for (int k = 0; k < x.c; k += VL) {
                        const int at = ix * x.c + k;
                        float* to = dx.row(i, iy) + at;
                        V v = scale * load(dy.row(i, iy / op.kernel_h) + ix / op.kernel_w * dy.c + k);
                        if (op.accumulate) v += load(to);
                        if (op.mask) v = where_positive(load(x.row(i, iy) + at), v);
                        store(to, v);
                    }
    }

    // Every stride-th pixel; the new channels stay zero as they are.
    void shortcut_forward(const Op& op) const {
        Map x = map(op.in), y = map(op.out);
        for (int i = 0; i < n_; i++)
            for (int oy = 0; oy < y.h; oy++)
                for (int ox = 0; ox < y.w; ox++)
                    for (int k = 0; k < x.c; k += VL)
                        store(y.row(i, oy) + ox * y.c + k,
                              only(op.in_channels - k, load(x.row(i, oy * op.stride) + ox * op.stride * x.c + k)));
    }

    void shortcut_backward(const Op& op) const {
        Map x = map(op.in), dy = map(op.d_out), dx = map(op.d_in);
        for (int i = 0; i < n_; i++)
            for (int iy = 0; iy < x.h; iy++)
                for (int ix = 0; ix < x.w; ix++) {
                    const bool seen = iy % op.stride == 0 && ix % op.stride == 0;
                    const float* from = dy.row(i, iy / op.stride) + ix / op.stride * dy.c;
                    for (int k = 0; k < x.c; k += VL) {
                        float* to = dx.row(i, iy) + ix * x.c + k;
                        V v = seen ? only(op.in_channels - k, load(from + k)) : V{};
                        if (op.accumulate) v += load(to);
                        if (op.mask) v = where_positive(load(x.row(i, iy) + ix * x.c + k), v);
                        store(to, v);
                    }
                }
    }
};

const std::array<Network::Fused, MAX_Q> Network::FUSED = {&fused_tile<1>, &fused_tile<2>, &fused_tile<3>,
                                                           &fused_tile<4>};

// ---- A lane's weights, packed for the kernels ---------------------------------------------------------------------

enum Direction { PACK, UNPACK };

template <Direction D>
void move(float& packed, float& torch) {
    if constexpr (D == PACK) packed = torch;
    else torch = packed;
}

// Between torch's [out][in][kernel_h][kernel_w] and blocks of [kernel_h][kernel_w * in][vectors of out].
template <Direction D>
void transfer_weights(const Op& op, const TensorView& in, const TensorView& out, float* packed, float* torch) {
    const Blocks blocks(out.c);
    const int run = op.kernel_w * in.c, depth = op.kernel_h * run;
    std::vector<int> offsets;  // of torch's inputs, in its order
    for (int i = 0; i < op.in_channels; i++)
        for (int y = 0; y < op.kernel_h; y++)
            for (int x = 0; x < op.kernel_w; x++) offsets.push_back(y * run + x * in.c + i);
    const int count = int(offsets.size());
    for (int v = 0; v < blocks.vectors; v++) {
        float* to = packed + weight_offset(blocks, depth, v, 0);
        float* from = torch + int64_t(v) * VL * count;
        const int step = blocks.of(v / blocks.width) * VL, rows = std::min(VL, op.out_channels - v * VL);
        int k = 0;
        for (; rows == VL && k + VL <= count; k += VL) {
            V r[VL];
#pragma GCC unroll 16
            for (int t = 0; t < VL; t++) r[t] = load(D == PACK ? from + t * count + k : to + offsets[k + t] * step);
            transpose(r);
#pragma GCC unroll 16
            for (int t = 0; t < VL; t++) store(D == PACK ? to + offsets[k + t] * step : from + t * count + k, r[t]);
        }
        for (; k < count; k++)
            for (int o = 0; o < rows; o++) move<D>(to[offsets[k] * step + o], from[o * count + k]);
    }
}

template <Direction D>
void transfer(const Program& program, float* packed, float* const* tensors) {
    for (int64_t k = 0; k < program.count; k++) {
        const Op& op = program.ops[k];
        if (op.weight < 0) continue;
        if (op.kind == CONV)
            transfer_weights<D>(op, program.views[op.in], program.views[op.out], packed + op.weight_at,
                                tensors[op.weight]);
        else
            for (int i = 0; i < op.out_channels; i++) move<D>(packed[op.weight_at + i], tensors[op.weight][i]);
        if (op.bias >= 0)
            for (int i = 0; i < op.out_channels; i++) move<D>(packed[op.bias_at + i], tensors[op.bias][i]);
    }
}

// Zeroes numbers too small for full precision, as long as it lives: they would take a hundred times as long.
class FlushSubnormals {
   public:
#if defined(__SSE__)
    FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushSubnormals() { _mm_setcsr(before_); }

   private:
    unsigned before_;
#else
    FlushSubnormals() {}
#endif
};

// theta <- theta + negative_rate * v, v <- momentum * v + (gradient + decay * theta); without momentum v is the gradient.
// Calls range(first, last, decay) for the weights and for the bias of each layer.
template <typename Range>
void each_range(const Program& program, const Rule& rule, const Range& range) {
    for (int64_t k = 0; k < program.count; k++) {
        const Op& op = program.ops[k];
        if (op.weight < 0) continue;
        const TensorView &in = program.views[op.in], &out = program.views[op.out];
        const int64_t width = int64_t(vectors(out.c)) * VL;
        const int64_t weights = op.kind == CONV ? int64_t(op.kernel_h) * op.kernel_w * in.c * width : width;
        const bool norm = op.kind == BATCH_NORM;
        range(op, op.weight_at, op.weight_at + weights, norm && !rule.decays_norms ? 0 : rule.decay);
        const bool decays = norm ? rule.decays_norms : rule.decays_biases;
        if (op.bias >= 0) range(op, op.bias_at, op.bias_at + width, decays ? rule.decay : 0);
    }
}

V root(V x) {
    V y;
    for (int i = 0; i < VL; i++) y[i] = std::sqrt(x[i]);
    return y;
}

V sign(V x) { return x > 0 ? V{} + 1 : x < 0 ? V{} - 1 : x; }  // keeps what is not a number

// Where a lane's numbers lie that an update reads and writes, packed.
struct Numbers {
    float *w, *g, *mean, *square;
};

// One update at -eta, the `count`th of the training.
struct Update {
    const Rule& rule;
    float negative_rate, corrected_rate, square_root;
    Update(const Rule& rule, float negative_rate, int64_t count)
        : rule(rule),
          negative_rate(negative_rate),
          corrected_rate(float(negative_rate / (1 - std::pow(double(rule.beta1), double(count))))),
          square_root(float(std::sqrt(1 - std::pow(double(rule.beta2), double(count))))) {}

    // A vector of weights.
    template <int32_t O>
    INLINE void at(const Numbers& of, int64_t i, float decay) const {
        V w = load(of.w + i), g = load(of.g + i);
        if constexpr (O == ADAMW) w = w + negative_rate * (decay * w);
        else if constexpr (O != LION) g = g + decay * w;
        V change = g;
        if constexpr (O == SGD || O == NESTEROV) {
            if (of.mean) {
                const V velocity = rule.beta1 * load(of.mean + i) + g;
                store(of.mean + i, velocity);
                change = O == NESTEROV ? g + rule.beta1 * velocity : velocity;
            }
        } else {
            const V mean = load(of.mean + i);
            if constexpr (O == LION) {
                store(of.mean + i, mean + (1 - rule.beta2) * (g - mean));
                change = sign(mean + (1 - rule.beta1) * (g - mean)) + decay * w;
            } else {
                const V next = mean + (1 - rule.beta1) * (g - mean);
                const V square = rule.beta2 * load(of.square + i) + (1 - rule.beta2) * (g * g);
                store(of.mean + i, next);
                store(of.square + i, square);
                change = next / (root(square) / square_root + rule.eps);
            }
        }
        constexpr bool corrected = O == ADAM || O == ADAMW;
        store(of.w + i, w + (corrected ? corrected_rate : negative_rate) * change);
    }

    template <int32_t O>
    void all(const Program& program, const Network& net, bool fused, const Numbers& of) const {
        each_range(program, rule, [&](const Op& op, int64_t first, int64_t last, float decay) {
            if (fused && first == op.weight_at && net.fuses(op)) return;
            for (int64_t i = first; i < last; i += VL) at<O>(of, i, decay);
        });
    }

    // `fused`: weights of fully connected layers are updated already.
    void run(const Program& program, const Network& net, bool fused, const Numbers& of) const {
        if (rule.clip > 0) shorten(program, of.g);
        switch (rule.optimizer) {
            case SGD: return all<SGD>(program, net, fused, of);
            case NESTEROV: return all<NESTEROV>(program, net, fused, of);
            case ADAM: return all<ADAM>(program, net, fused, of);
            case ADAMW: return all<ADAMW>(program, net, fused, of);
            default: return all<LION>(program, net, fused, of);
        }
    }

   private:
    void shorten(const Program& program, float* g) const {
        double squares = 0;
        each_range(program, rule, [&](const Op&, int64_t first, int64_t last, float) {
            for (int64_t i = first; i < last; i++) squares += double(g[i]) * g[i];
        });
        const float by = float(std::min(1.0, rule.clip / (std::sqrt(squares) + 1e-6)));
        each_range(program, rule, [&](const Op&, int64_t first, int64_t last, float) {
            for (int64_t i = first; i < last; i += VL) store(g + i, by * load(g + i));
        });
    }
};

void begin_statistics(const Program& program, float* statistics) {
    for (int64_t k = 0; k < program.count; k++) {
        const Op& op = program.ops[k];
        const int c = program.views[op.in].c;
        if (op.kind == BATCH_NORM) std::memset(statistics + op.extra_at + 2 * c, 0, 2 * c * sizeof(float));
    }
}

// Linear interpolation, but a variance beyond float32 stays infinite (the difference of two such is not a number).
float lerp(float start, float end, float weight) {
    if (std::isinf(start)) return weight < 1 ? start : end;
    return start + weight * (end - start);
}

void end_statistics(const Program& program, const Lane& lane, const float* statistics, int batches, float momentum) {
    for (int64_t k = 0; k < program.count; k++) {
        const Op& op = program.ops[k];
        if (op.kind != BATCH_NORM) continue;
        const int c = program.views[op.in].c;
        const float *means = statistics + op.extra_at + 2 * c, *vars = means + c;
        float *mean = lane.tensors[op.mean], *var = lane.tensors[op.var];
        for (int i = 0; i < op.in_channels; i++) {
            mean[i] = lerp(mean[i], means[i] / float(batches), momentum);
            var[i] = lerp(var[i], vars[i] / float(batches), momentum);
        }
    }
}

// Where a lane's numbers lie while it is worked on.
struct Scratch {
    float *statistics, *packed, *gradient, *mean, *square, *transposed;
    Scratch(const Program& program, float* scratch)
        : statistics(scratch),
          packed(statistics + program.statistics_floats),
          gradient(packed + program.packed_floats),
          mean(gradient + program.packed_floats),
          square(mean + program.packed_floats),
          transposed(square + program.packed_floats) {}

    void take(const Program& program, const Lane& lane) const {
        // Padding too: a lane before may have left there what is not a number.
        std::fill(packed, transposed, 0.0f);
        transfer<PACK>(program, packed, lane.tensors);
    }
};

void transpose_all(const Program& program, const Network& net, bool fused, const float* packed, float* transposed) {
    for (int64_t k = 0; k < program.count; k++) {
        const Op& op = program.ops[k];
        if (op.kind == CONV && op.d_in >= 0 && !(fused && net.fuses(op)))
            transpose_weights(op, program.views[op.in], program.views[op.out], packed, transposed);
    }
}

// A mini-batch of m examples in micro-batches, the last of which may be smaller.
struct MiniBatch {
    Network full, last;  // a full micro-batch; the one that may be smaller, if any
    const Program& program;
    int64_t m, size, image;
    float smoothing;
    const Scratch& at;

    MiniBatch(const Program& program, int64_t m, int64_t micro_batch, float smoothing, float* arena, const Scratch& at)
        : full(program, int(std::min(m, micro_batch)), micro_batch, arena, at.statistics),
          last(program, int(std::max<int64_t>(1, m % std::min(m, micro_batch))), micro_batch, arena, at.statistics),
          program(program),
          m(m),
          size(std::min(m, micro_batch)),
          image(program.image_floats),
          smoothing(smoothing),
          at(at) {}

    // Leaves the gradient in the scratch memory; returns the mean loss. Examples are `step` images and labels apart.
    float gradient(const Lane& lane, const float* images, const Labels& labels, int64_t step, bool fused,
                   float negative_rate, float decay) {
        double loss = 0;
        for (int64_t first = 0; first < m; first += size) {
            Network& net = first + size <= m ? full : last;
            net.take(images + first * step * image, step * image);
            net.forward(at.packed, lane, true);
            loss += net.loss(labels.from(first * step, program.classes), step, float(m), smoothing);
            net.backward(at.packed, at.gradient, at.transposed, first > 0, fused, negative_rate, decay);
        }
        return float(loss / double(m));
    }
};

// Whether each of so many labels is the index of a class; others would be read and written beyond the logits.
bool are_classes(const Program& program, const int64_t* labels, int64_t count) {
    return !labels || std::all_of(labels, labels + count, [&](int64_t label) { return 0 <= label && label < program.classes; });
}

}  // namespace

extern "C" {

int32_t smallbatch_vector() { return VL; }

int32_t smallbatch_max_channels() { return MAX_CHANNELS; }

// `library.py` declares the structs above and the functions below once more, and compares these when it loads them. The
// number rises with every change of a struct, of `Kind` or of a function's arguments.
int32_t smallbatch_interface() { return 4; }

// Bytes of a struct, numbered in the order in which they are declared; -1 beyond the last.
int64_t smallbatch_struct_size(int32_t number) {
    constexpr int64_t sizes[] = {sizeof(TensorView), sizeof(Op), sizeof(Program), sizeof(Lane), sizeof(Rule)};
    return 0 <= number && number < int32_t(std::size(sizes)) ? sizes[number] : -1;
}

// Updates of all lanes, one lane after the other. Returns 1, else 0 and nothing is done: a label is not a class.
//   program     the model
//   micro_batch examples that the arena holds and that pass together; with batch norm the examples of a sub-batch
//   arena       program.arena_floats * micro_batch floats, zeros at first and left alone between calls
//   scratch     statistics + 4 * packed + transposed floats, the same
//   images      [steps][m][lanes][channels][rows][columns]
//   labels      [steps][m][lanes], or null: then
//   targets     [steps][m][lanes][classes], which sum to 1; else null
//   negative_rates  [steps][lanes]: -eta
//   updates     made before
//   smoothing   part of each target that is spread over all classes
//   losses      [steps][lanes], out: the means before each update; from the first that is not finite on, not a number
int32_t smallbatch_train(const Program* program, const Lane* lanes, int64_t lane_count, int64_t steps, int64_t m,
                         int64_t micro_batch, float* arena, float* scratch, const float* images,
                         const int64_t* labels, const float* targets, const float* negative_rates, const Rule* rule,
                         int64_t updates, float norm_momentum, float smoothing, float* losses) {
    if (!are_classes(*program, labels, steps * m * lane_count)) return 0;
    const FlushSubnormals flush;
    const Scratch at(*program, scratch);
    MiniBatch batch(*program, m, micro_batch, smoothing, arena, at);
    const Labels all{labels, targets};
    const bool fused = rule->optimizer == SGD && !lanes->means && rule->clip == 0 && micro_batch >= m;
    for (int64_t l = 0; l < lane_count; l++) {
        const Lane& lane = lanes[l];
        at.take(*program, lane);
        if (lane.means) transfer<PACK>(*program, at.mean, lane.means);
        if (lane.squares) transfer<PACK>(*program, at.square, lane.squares);
        const Numbers numbers{at.packed, at.gradient, lane.means ? at.mean : nullptr, at.square};
        for (int64_t s = 0; s < steps; s++) {
            const int64_t index = s * lane_count + l, example = s * m * lane_count + l;
            begin_statistics(*program, at.statistics);
            transpose_all(*program, batch.full, fused, at.packed, at.transposed);
            losses[index] = batch.gradient(lane, images + example * program->image_floats,
                                           all.from(example, program->classes), lane_count, fused,
                                           negative_rates[index], rule->decay);
            Update(*rule, negative_rates[index], updates + s + 1).run(*program, batch.full, fused, numbers);
            end_statistics(*program, lane, at.statistics, int(m / batch.size), norm_momentum);
            if (!std::isfinite(losses[index])) {
                for (int64_t rest = s + 1; rest < steps; rest++)
                    losses[rest * lane_count + l] = std::numeric_limits<float>::quiet_NaN();
                break;
            }
        }
        transfer<UNPACK>(*program, at.packed, lane.tensors);
        if (lane.means) transfer<UNPACK>(*program, at.mean, lane.means);
        if (lane.squares) transfer<UNPACK>(*program, at.square, lane.squares);
    }
    return 1;
}

// Gradients of one mini-batch of each lane go where its means would lie; its weights and statistics stay. Returns 1, else
// 0 and nothing is done: a label is not a class.
int32_t smallbatch_gradients(const Program* program, const Lane* lanes, int64_t lane_count, int64_t m,
                             int64_t micro_batch, float* arena, float* scratch, const float* images, const int64_t* labels,
                             const float* targets, float smoothing) {
    if (!are_classes(*program, labels, m * lane_count)) return 0;
    const FlushSubnormals flush;
    const Scratch at(*program, scratch);
    MiniBatch batch(*program, m, micro_batch, smoothing, arena, at);
    for (int64_t l = 0; l < lane_count; l++) {
        at.take(*program, lanes[l]);
        transpose_all(*program, batch.full, false, at.packed, at.transposed);
        batch.gradient(lanes[l], images + l * program->image_floats, Labels{labels, targets}.from(l, program->classes),
                       lane_count, false, 0, 0);
        transfer<UNPACK>(*program, at.gradient, lanes[l].means);
    }
    return 1;
}

// Logits [n][lanes][classes] of images [n][channels][rows][columns], with running statistics. `arena` holds the
// values, without gradients, of `micro_batch` images.
void smallbatch_logits(const Program* program, const Lane* lanes, int64_t lane_count, int64_t n, int64_t micro_batch,
                       float* arena, float* scratch, const float* images, float* logits) {
    const FlushSubnormals flush;
    const Scratch at(*program, scratch);
    for (int64_t l = 0; l < lane_count; l++) {
        at.take(*program, lanes[l]);
        for (int64_t first = 0; first < n; first += micro_batch) {
            const int size = int(std::min(micro_batch, n - first));
            Network net(*program, size, micro_batch, arena, at.statistics);
            net.take(images + first * program->image_floats, program->image_floats);
            net.forward(at.packed, lanes[l], false);
            Map y = net.map(program->logits);
            for (int i = 0; i < size; i++)
                std::memcpy(logits + ((first + i) * lane_count + l) * program->classes, y.image(i),
                            program->classes * sizeof(float));
        }
    }
}

}  // extern "C"
