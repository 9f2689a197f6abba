"""What stands for the GIL where there is none; see section.hpp for the rules."""

cdef extern from "section.hpp" namespace "fastws":
    cdef cppclass Section:
        void enter(object owner) noexcept
        void leave() noexcept

    cdef cppclass Claim:
        bint take() noexcept
        void give() noexcept
        bint is_taken() noexcept

    cdef cppclass Claimed:
        bint try_take(Claim* claim) noexcept
        int take(Claim* claim) except -1
