"""The kernels of `block_attention`, in Triton.

INT8: keys and values are codes in the pool, with a bfloat16 scale a token and head, and not as they
are.
"""

import triton
import triton.language as tl


@triton.jit
def _stored(new, pool, scales, place, inside, INT8: tl.constexpr, DIM: tl.constexpr):
    """`new` [heads, dim] into slots whose first elements are at `place` [heads, dim]."""
    if not INT8:
        tl.store(pool + place, new.to(pool.dtype.element_ty), mask=inside)
    else:
        wide = new.to(tl.float32)
        largest: tl.constexpr = 127.0
        scale = tl.maximum(tl.div_rn(tl.max(tl.abs(wide), 1), largest), 1e-30)
        # One that is no number must show in the scale; a maximum passes over it.
        bad = tl.max((wide != wide).to(tl.int32), 1) > 0
        scale = tl.where(bad, float("nan"), scale)
        # To the nearest bfloat16 by its bits, because the interpreter would cut them off.
        bits = scale.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        scale = bits.to(tl.float32, bitcast=True).to(tl.bfloat16)
        codes = tl.div_rn(wide, tl.broadcast_to(scale.to(tl.float32)[:, None], wide.shape))
        codes = tl.minimum(tl.maximum(codes, -largest), largest)
        # Ties to even: adding 1.5 · 2^23 leaves no bits for a fraction.
        codes = ((codes + 12582912.0) - 12582912.0).to(tl.int32)
        tl.store(pool + place, codes.to(tl.int8), mask=inside)
        first = tl.arange(0, place.shape[1])[None, :] == 0
        spread = tl.broadcast_to(scale[:, None], place.shape)
        tl.store(scales + place // DIM, spread, mask=inside & first)


@triton.jit
def write_kernel(
    keys,
    values,
    key_pool,
    value_pool,
    key_scales,
    value_scales,
    slots,
    key_token,
    key_head,
    value_token,
    value_head,
    pool_head,
    HEADS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    INT8: tl.constexpr,
):
    """One token."""
    token = tl.program_id(0)
    slot = tl.load(slots + token).to(tl.int64)
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    channel = tl.arange(0, BLOCK_DIM)[None, :]
    inside = (head < HEADS) & (channel < DIM)
    place = head.to(tl.int64) * pool_head + slot * DIM + channel
    new = tl.load(keys + token * key_token + head * key_head + channel, mask=inside, other=0.0)
    _stored(new, key_pool, key_scales, place, inside, INT8, DIM)
    new = tl.load(
        values + token * value_token + head * value_head + channel, mask=inside, other=0.0
    )
    _stored(new, value_pool, value_scales, place, inside, INT8, DIM)


@triton.jit
def _visible(numbers, limit, start, count, block, PAGE: tl.constexpr, SLOTS: tl.constexpr):
    """[rows, slots] whether a row sees a slot of a block of a tile's `count` pages, by its run's
    numbers of them, which begin at `start`."""
    if SLOTS % PAGE == 0:  # one number a page, and not the same one for each of its slots
        index = block * (SLOTS // PAGE) + tl.arange(0, SLOTS // PAGE)
        reach = _reach(numbers, limit, start, count, index)
        visible = tl.arange(0, PAGE)[None, None, :] < reach[:, :, None]
        visible = tl.reshape(visible, (reach.shape[0], SLOTS))
    else:
        number = block * SLOTS + tl.arange(0, SLOTS)
        reach = _reach(numbers, limit, start, count, number // PAGE)
        visible = (number % PAGE)[None, :] < reach
    return visible


@triton.jit
def _reach(numbers, limit, start, count, index):
    """[rows, pages] how many slots of pages a row sees."""
    listed = (index < count)[None, :]
    reach = tl.load(numbers + start[:, None] + index[None, :], mask=listed, other=0)
    return tl.where(reach < 0, limit[:, None] + 2 + reach, reach)


@triton.jit
def _step(
    sums,
    norm,
    most,
    query,
    key_pool,
    value_pool,
    key_scales,
    value_scales,
    slot,
    shown,
    visible,
    scale,
    INT8: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """One block of slots into the running softmax. slot: [slots] int64 numbers in a head's part of
    the pool. shown [slots]: whether any row sees it; the others are not read, so that whatever
    lies there cannot spoil the sums. visible: [rows, slots]."""
    channel = tl.arange(0, BLOCK_DIM)
    place = slot[:, None] * DIM + channel[None, :]
    inside = shown[:, None] & (channel < DIM)[None, :]
    if not INT8:
        key = tl.load(key_pool + place, mask=inside, other=0.0)
        value = tl.load(value_pool + place, mask=inside, other=0.0)
    else:  # by way of float32, exact in any dtype
        key = tl.load(key_pool + place, mask=inside, other=0).to(tl.float32).to(query.dtype)
        value = tl.load(value_pool + place, mask=inside, other=0).to(tl.float32).to(query.dtype)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if INT8:  # a scale for a slot scales its whole column, and its value's weight
        key_scale = tl.load(key_scales + slot, mask=shown, other=0.0).to(tl.float32)
        value_scale = tl.load(value_scales + slot, mask=shown, other=0.0).to(tl.float32)
        scores *= key_scale[None, :]
    scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # rows that have seen nothing yet
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(most - base)
    norm = norm * fade + tl.sum(weights, 1)
    if INT8:
        weights *= value_scale[None, :]
    sums = sums * fade[:, None]
    sums = tl.dot(weights.to(value.dtype), value, sums, input_precision="ieee")
    return sums, norm, higher


@triton.jit(do_not_specialize=["tokens", "splits"])  # or steps would wait for a compiler
def attend_kernel(
    queries,
    key_pool,
    value_pool,
    key_scales,
    value_scales,
    out,
    partial_sums,
    partial_norms,
    tiles,
    limits,
    starts,
    lists,
    scale,
    tokens,
    splits,
    query_token,
    query_head,
    pool_head,
    KV_HEADS: tl.constexpr,
    SHARING: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    SPLIT: tl.constexpr,
    INT8: tl.constexpr,
):
    """A tile of queries with one KV head, over one share of the tile's pages.

    Tiles of a session have neighbouring numbers, so that programs that run at one time read the
    same pages from the L2 cache.
    """
    tile = tiles + tl.program_id(0) * 4
    head = tl.program_id(1)
    split = tl.program_id(2)
    first = tl.load(tile)
    count = tl.load(tile + 1)
    if count == 0:
        return
    lists += tl.load(tile + 2)
    pages = tl.load(tile + 3)

    row = tl.arange(0, ROWS)
    token = first + row // SHARING
    real = row < count * SHARING
    channel = tl.arange(0, BLOCK_DIM)
    query_at = token * query_token + (head * SHARING + row % SHARING) * query_head
    query = tl.load(
        queries + query_at[:, None] + channel[None, :],
        mask=real[:, None] & (channel < DIM)[None, :],
        other=0.0,
    )
    limit = tl.load(limits + token, mask=real, other=0)
    start = tl.load(starts + token, mask=real, other=0)
    scale *= 1.4426950408889634  # powers of two are what the device computes
    pool_at = head.to(tl.int64) * pool_head
    key_pool += pool_at
    value_pool += pool_at
    if INT8:
        key_scales += pool_at // DIM
        value_scales += pool_at // DIM

    sums = tl.zeros((ROWS, BLOCK_DIM), dtype=tl.float32)
    norm = tl.zeros((ROWS,), dtype=tl.float32)
    most = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    blocks = tl.cdiv(pages * PAGE, SLOTS)
    share = tl.cdiv(blocks, splits)
    begin = split * share
    for block in range(begin, tl.minimum(begin + share, blocks)):
        number = block * SLOTS + tl.arange(0, SLOTS)
        index = number // PAGE
        page = tl.load(lists + index, mask=index < pages, other=0)
        seen = tl.load(lists + pages + index, mask=index < pages, other=0)
        sums, norm, most = _step(
            sums,
            norm,
            most,
            query,
            key_pool,
            value_pool,
            key_scales,
            value_scales,
            page.to(tl.int64) * PAGE + number % PAGE,
            number % PAGE < seen,
            _visible(lists + 2 * pages, limit, start, pages, block, PAGE, SLOTS),
            scale,
            INT8,
            DIM,
            BLOCK_DIM,
        )

    out_at = (token * KV_HEADS + head) * SHARING + row % SHARING
    if not SPLIT:
        # Padding has seen nothing and gets zeros; what is no number stays none.
        norm = tl.where(norm == 0.0, 1.0, norm)
        tl.store(
            out + out_at[:, None] * DIM + channel[None, :],
            (sums / norm[:, None]).to(out.dtype.element_ty),
            mask=real[:, None] & (channel < DIM)[None, :],
        )
    else:
        out_at = out_at.to(tl.int64) + split.to(tl.int64) * tokens * KV_HEADS * SHARING
        tl.store(
            partial_sums + out_at[:, None] * DIM + channel[None, :],
            sums,
            mask=real[:, None] & (channel < DIM)[None, :],
        )
        tl.store(partial_norms + out_at * 2, norm, mask=real)
        tl.store(partial_norms + out_at * 2 + 1, most, mask=real)


@triton.jit(do_not_specialize=["tokens", "splits"])
def join_kernel(
    partial_sums,
    partial_norms,
    out,
    tokens,
    splits,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """The shares of one query head's pages, into one."""
    at = tl.program_id(0) * HEADS + tl.program_id(1)
    channel = tl.arange(0, BLOCK_DIM)
    sums = tl.zeros((BLOCK_DIM,), dtype=tl.float32)
    norm = 0.0
    most = float("-inf")
    for split in range(splits):
        part = split * tokens * HEADS + at
        higher = tl.maximum(most, tl.load(partial_norms + part * 2 + 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp2(most - base)
        weight = tl.exp2(tl.load(partial_norms + part * 2 + 1) - base)
        place = part.to(tl.int64) * DIM + channel
        found = tl.load(partial_sums + place, mask=channel < DIM, other=0.0)
        sums = sums * fade + found * weight
        norm = norm * fade + tl.load(partial_norms + part * 2) * weight
        most = higher
    norm = tl.where(norm == 0.0, 1.0, norm)
    tl.store(out + at * DIM + channel, (sums / norm).to(out.dtype.element_ty), mask=channel < DIM)
