// Strict mode's arithmetic: every float32 operation rounds once, to nearest, and flushes nothing.
//
// No kernels, and no program of its own; it takes the place of arithmetic.cu.
//
// Hazard: on a GPU the compiler may fuse a product and a sum into one rounding, and CuPy compiles with
// -ftz=true (appended after our options), which flushes subnormal float32 numbers to zero. Neither
// reaches a PTX instruction that names its rounding. So float32 operations, comparisons and
// conversions go through the PTX below. Float64 has no flushing, and -fmad=false prevents its fusion. A
// test reads the compiled PTX.

#ifdef __CUDA_ARCH__
#define MEMBER __device__
#define ROUNDED(name, instruction)                                              \
    __device__ float name(float a, float b)                                     \
    {                                                                           \
        float result;                                                           \
        asm(instruction " %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));        \
        return result;                                                          \
    }
ROUNDED(add, "add.rn.f32")
ROUNDED(subtract, "sub.rn.f32")
ROUNDED(multiply, "mul.rn.f32")
ROUNDED(divide, "div.rn.f32")

__device__ float root(float a)
{
    float result;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(result) : "f"(a));
    return result;
}

__device__ double widened(float a)
{
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(a));
    return result;
}

__device__ float narrowed(double a)
{
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(a));
    return result;
}
#else // the tests' compiler for the CPU, which is told not to fuse
#define MEMBER
__device__ float add(float a, float b) { return a + b; }
__device__ float subtract(float a, float b) { return a - b; }
__device__ float multiply(float a, float b) { return a * b; }
__device__ float divide(float a, float b) { return a / b; }
__device__ float root(float a) { return sqrtf(a); }
__device__ double widened(float a) { return a; }
__device__ float narrowed(double a) { return (float)a; }
#endif

// A float32 number with these operations. Its size and alignment are float's, and so are arrays of it
// and kernel parameters of this type.
struct Rounded {
    float value;

    Rounded() = default;
    MEMBER Rounded(float x) : value(x) {}
    MEMBER Rounded(int x) : value((float)x) {}
    MEMBER explicit Rounded(double x) : value(narrowed(x)) {}
    MEMBER explicit operator double() const { return widened(value); }
};

__device__ Rounded operator+(Rounded a, Rounded b) { return add(a.value, b.value); }
__device__ Rounded operator-(Rounded a, Rounded b) { return subtract(a.value, b.value); }
__device__ Rounded operator*(Rounded a, Rounded b) { return multiply(a.value, b.value); }
__device__ Rounded operator/(Rounded a, Rounded b) { return divide(a.value, b.value); }
__device__ Rounded& operator+=(Rounded& a, Rounded b) { return a = a + b; }
__device__ Rounded& operator-=(Rounded& a, Rounded b) { return a = a - b; }
__device__ Rounded& operator/=(Rounded& a, Rounded b) { return a = a / b; }
__device__ bool operator<(Rounded a, Rounded b) { return (double)a < (double)b; }
__device__ bool operator>(Rounded a, Rounded b) { return (double)a > (double)b; }
__device__ bool operator==(Rounded a, Rounded b) { return (double)a == (double)b; }
__device__ bool operator!=(Rounded a, Rounded b) { return (double)a != (double)b; }

template <> struct Whole<Rounded> : Whole<float> {};

template <typename T> struct Strict { typedef T type; };
template <> struct Strict<float> { typedef Rounded type; };
typedef Strict<REAL>::type real;

__device__ void assign(Rounded& to, uint8 from) { to = Rounded((int)from); }
__device__ void assign(Rounded& to, float from) { to = from; }
__device__ void assign(Rounded& to, double from) { to = Rounded(from); }
__device__ void assign(double& to, uint8 from) { to = from; }
__device__ void assign(double& to, float from) { to = widened(from); }
__device__ void assign(double& to, double from) { to = from; }
