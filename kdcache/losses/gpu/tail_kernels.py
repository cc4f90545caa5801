"""Triton kernel of the tail curve: `kdcache.losses.tail` in one launch, with many rows a program."""

import triton
import triton.language as tl

UNUSED = tl.constexpr(1e30)
"""On the diagonal where a row has fewer atoms: above every node."""


@triton.jit
def pivot(value, n, i: tl.constexpr, MIN_PIVOT: tl.constexpr):
    """The square root of a pivot, 1 where it is not trusted; and n, the number of trusted ones, if it stays i + 1."""
    good = value >= MIN_PIVOT
    return tl.sqrt(tl.where(good, value, 1.0)), tl.where((n == i) & good, i + 1, n)


@triton.jit
def pair(a, b, c, s):
    """Two elements of a row, rotated."""
    return c * a - s * b, s * a + c * b


@triton.jit
def rotate(p, q, off, a0, b0, a1, b1, a2, b2, up, uq):
    """A Jacobi rotation that makes `off`, between the diagonal elements p and q, zero (Golub and Van Loan, 8.5).

    a and b are the other elements of both rows, up and uq those of the eigenvectors' first row.
    """
    gap = q - p
    bottom = tl.abs(gap) + tl.sqrt(gap * gap + 4.0 * off * off)
    t = tl.where(gap < 0.0, -2.0, 2.0) * off / tl.where(bottom > 0.0, bottom, 1.0)
    c = 1.0 / tl.sqrt(t * t + 1.0)
    s = t * c
    a0, b0 = pair(a0, b0, c, s)
    a1, b1 = pair(a1, b1, c, s)
    a2, b2 = pair(a2, b2, c, s)
    up, uq = pair(up, uq, c, s)
    return p - t * off, q + t * off, off * 0.0, a0, b0, a1, b1, a2, b2, up, uq


@triton.jit
def swap(a, u, b, w):
    """Two eigenvalues and what belongs to them, the smaller first."""
    right = a <= b
    return tl.where(right, a, b), tl.where(right, u, w), tl.where(right, b, a), tl.where(right, w, u)


@triton.jit
def store_atom(ATOMS, inside, used, node, u, last, log_size, H: tl.constexpr):
    """One atom: its position and log weight; 0 and -inf where it is not used."""
    position = tl.where(used, last + tl.log(tl.where(used, node, 1.0)) / H, 0.0)
    weight = tl.where(used & (u != 0.0), tl.log(tl.where(u != 0.0, u * u, 1.0)) + log_size, -float("inf"))
    tl.store(ATOMS, position.to(tl.float32), mask=inside)
    tl.store(ATOMS + 1, weight.to(tl.float32), mask=inside)


@triton.jit
def gauss(
    POWERS, LAST, ATOMS, num_rows, H: tl.constexpr, MIN_PIVOT: tl.constexpr, SWEEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Gauss atoms of tails from their ten power sums, BLOCK rows a program: Golub and Welsch, with Jacobi rotations.

    With m_j = S_j / S_0 and L the Cholesky factor of the Hankel matrix m_{i+j}, which has one row more than columns
    here, the Jacobi matrix is tridiagonal, with L[j+1, j] / L[j, j] - L[j, j-1] / L[j-1, j-1] on its diagonal and
    L[j, j] / L[j-1, j-1] beside it. Its leading part of order n is that of n atoms. n is the largest such that n
    pivots of L are trusted and n nodes are positive, which the pivots of the tridiagonal matrix tell.
    """
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = r < num_rows
    size = tl.load(POWERS + r * 10, mask=inside, other=1.0)
    scale = 1.0 / tl.where(size > 0.0, size, 1.0)
    m1 = tl.load(POWERS + r * 10 + 1, mask=inside, other=0.0) * scale
    m2 = tl.load(POWERS + r * 10 + 2, mask=inside, other=0.0) * scale
    m3 = tl.load(POWERS + r * 10 + 3, mask=inside, other=0.0) * scale
    m4 = tl.load(POWERS + r * 10 + 4, mask=inside, other=0.0) * scale
    m5 = tl.load(POWERS + r * 10 + 5, mask=inside, other=0.0) * scale
    m6 = tl.load(POWERS + r * 10 + 6, mask=inside, other=0.0) * scale
    m7 = tl.load(POWERS + r * 10 + 7, mask=inside, other=0.0) * scale
    m8 = tl.load(POWERS + r * 10 + 8, mask=inside, other=0.0) * scale
    m9 = tl.load(POWERS + r * 10 + 9, mask=inside, other=0.0) * scale

    # The factor's columns; column 0 is m1 .. m5 itself.
    n = tl.where(size > 0.0, 1, 0)
    l11, n = pivot(m2 - m1 * m1, n, 1, MIN_PIVOT)
    l21 = (m3 - m2 * m1) / l11
    l31 = (m4 - m3 * m1) / l11
    l41 = (m5 - m4 * m1) / l11
    l51 = (m6 - m5 * m1) / l11
    l22, n = pivot(m4 - m2 * m2 - l21 * l21, n, 2, MIN_PIVOT)
    l32 = (m5 - m3 * m2 - l31 * l21) / l22
    l42 = (m6 - m4 * m2 - l41 * l21) / l22
    l52 = (m7 - m5 * m2 - l51 * l21) / l22
    l33, n = pivot(m6 - m3 * m3 - l31 * l31 - l32 * l32, n, 3, MIN_PIVOT)
    l43 = (m7 - m4 * m3 - l41 * l31 - l42 * l32) / l33
    l53 = (m8 - m5 * m3 - l51 * l31 - l52 * l32) / l33
    l44, n = pivot(m8 - m4 * m4 - l41 * l41 - l42 * l42 - l43 * l43, n, 4, MIN_PIVOT)
    l54 = (m9 - m5 * m4 - l51 * l41 - l52 * l42 - l53 * l43) / l44

    # The Jacobi matrix: a00 .. a44 and a01, a12, a23, a34.
    a00 = m1
    a11 = l21 / l11 - m1
    a22 = l32 / l22 - l21 / l11
    a33 = l43 / l33 - l32 / l22
    a44 = l54 / l44 - l43 / l33
    a01 = l11
    a12 = l22 / l11
    a23 = l33 / l22
    a34 = l44 / l33
    d = a00
    n = tl.where(d > 0.0, n, 0)
    d = a11 - a01 * a01 / tl.where(d > 0.0, d, 1.0)
    n = tl.where(d > 0.0, n, tl.minimum(n, 1))
    d = a22 - a12 * a12 / tl.where(d > 0.0, d, 1.0)
    n = tl.where(d > 0.0, n, tl.minimum(n, 2))
    d = a33 - a23 * a23 / tl.where(d > 0.0, d, 1.0)
    n = tl.where(d > 0.0, n, tl.minimum(n, 3))
    d = a44 - a34 * a34 / tl.where(d > 0.0, d, 1.0)
    n = tl.where(d > 0.0, n, tl.minimum(n, 4))

    # Rows and columns that are not used: above every node, and never rotated.
    a00 = tl.where(n > 0, a00, UNUSED)
    a11 = tl.where(n > 1, a11, UNUSED)
    a22 = tl.where(n > 2, a22, UNUSED)
    a33 = tl.where(n > 3, a33, UNUSED)
    a44 = tl.where(n > 4, a44, UNUSED)
    a01 = tl.where(n > 1, a01, 0.0)
    a12 = tl.where(n > 2, a12, 0.0)
    a23 = tl.where(n > 3, a23, 0.0)
    a34 = tl.where(n > 4, a34, 0.0)
    a02 = tl.zeros_like(a01)
    a03 = a02
    a04 = a02
    a13 = a02
    a14 = a02
    a24 = a02
    u0 = a02 + 1.0
    u1 = a02
    u2 = a02
    u3 = a02
    u4 = a02
    for _ in range(SWEEPS):
        a00, a11, a01, a02, a12, a03, a13, a04, a14, u0, u1 = rotate(
            a00, a11, a01, a02, a12, a03, a13, a04, a14, u0, u1
        )
        a11, a22, a12, a01, a02, a13, a23, a14, a24, u1, u2 = rotate(
            a11, a22, a12, a01, a02, a13, a23, a14, a24, u1, u2
        )
        a22, a33, a23, a02, a03, a12, a13, a24, a34, u2, u3 = rotate(
            a22, a33, a23, a02, a03, a12, a13, a24, a34, u2, u3
        )
        a33, a44, a34, a03, a04, a13, a14, a23, a24, u3, u4 = rotate(
            a33, a44, a34, a03, a04, a13, a14, a23, a24, u3, u4
        )
        a00, a22, a02, a01, a12, a03, a23, a04, a24, u0, u2 = rotate(
            a00, a22, a02, a01, a12, a03, a23, a04, a24, u0, u2
        )
        a11, a33, a13, a01, a03, a12, a23, a14, a34, u1, u3 = rotate(
            a11, a33, a13, a01, a03, a12, a23, a14, a34, u1, u3
        )
        a22, a44, a24, a02, a04, a12, a14, a23, a34, u2, u4 = rotate(
            a22, a44, a24, a02, a04, a12, a14, a23, a34, u2, u4
        )
        a00, a33, a03, a01, a13, a02, a23, a04, a34, u0, u3 = rotate(
            a00, a33, a03, a01, a13, a02, a23, a04, a34, u0, u3
        )
        a11, a44, a14, a01, a04, a12, a24, a13, a34, u1, u4 = rotate(
            a11, a44, a14, a01, a04, a12, a24, a13, a34, u1, u4
        )
        a00, a44, a04, a01, a14, a02, a24, a03, a34, u0, u4 = rotate(
            a00, a44, a04, a01, a14, a02, a24, a03, a34, u0, u4
        )

    # Ascending, as `eigh` gives them: a sorting network of nine exchanges.
    a00, u0, a33, u3 = swap(a00, u0, a33, u3)
    a11, u1, a44, u4 = swap(a11, u1, a44, u4)
    a00, u0, a22, u2 = swap(a00, u0, a22, u2)
    a11, u1, a33, u3 = swap(a11, u1, a33, u3)
    a00, u0, a11, u1 = swap(a00, u0, a11, u1)
    a22, u2, a44, u4 = swap(a22, u2, a44, u4)
    a11, u1, a22, u2 = swap(a11, u1, a22, u2)
    a33, u3, a44, u4 = swap(a33, u3, a44, u4)
    a22, u2, a33, u3 = swap(a22, u2, a33, u3)
    last = tl.load(LAST + r, mask=inside, other=0.0).to(tl.float64)
    log_size = tl.log(tl.where(size > 0.0, size, 1.0))
    store_atom(ATOMS + r * 10, inside, n > 0, a00, u0, last, log_size, H)
    store_atom(ATOMS + r * 10 + 2, inside, n > 1, a11, u1, last, log_size, H)
    store_atom(ATOMS + r * 10 + 4, inside, n > 2, a22, u2, last, log_size, H)
    store_atom(ATOMS + r * 10 + 6, inside, n > 3, a33, u3, last, log_size, H)
    store_atom(ATOMS + r * 10 + 8, inside, n > 4, a44, u4, last, log_size, H)
