// Threads, and the memory of each.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <pthread.h>
#include <system_error>
#include <thread>

#include "rows.h"

// Memory of one thread, kept for the next call.
struct Scratch {
    float* memory = nullptr;
    size_t size = 0;
    float* reserve(size_t floats) {
        if (floats > size) {
            free(memory);
            memory = (float*)aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
            size = memory ? floats : 0;
        }
        return memory;
    }
    ~Scratch() { free(memory); }
};

// Threads that wait for work. The caller does the work itself and waits for no thread that has not begun an item, so one
// that the system holds back, because something else wants its core, costs nothing. Waiting threads give way: they spin
// for a moment, because the next call is often near, then sleep.
class Team {
  public:
    typedef void (*Task)(void* work, long item);

    // Never destroyed: its threads may outlive everything else. A process that was forked begins with no threads.
    static Team& get() {
        static Team* team = [] {
            pthread_atfork(nullptr, nullptr, [] { forked = true; });
            return new Team;
        }();
        if (forked.exchange(false)) team = new Team;
        return *team;
    }

    // Runs task(work, item) for all items on up to `threads` threads, the caller's among them.
    void run(long items, int threads, Task task, void* work) {
        std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
        if (threads <= 1 || items <= 1 || !mine) {  // others are at work: their threads are not for us
            for (long item = 0; item < items; ++item) task(work, item);
            return;
        }
        begin(items, std::min((long)threads, items) - 1, task, work);
        work_on(ticket.load() >> SHIFT);
        wait([&] { return finished.load() == items; }, caller);
    }

  private:
    // A ticket is the number of a call and the number of its next item. A late thread, which has read what belongs to
    // a call that is over, cannot take an item: the ticket has changed.
    static constexpr int SHIFT = 32;
    static constexpr uint64_t ITEM = ((uint64_t)1 << SHIFT) - 1;
    static constexpr int SPINS = 4000;
    static std::atomic<bool> forked;

    std::mutex busy, asleep;
    std::condition_variable workers, caller;
    std::atomic<uint64_t> ticket{0};
    std::atomic<long> count{0}, finished{0};
    std::atomic<int> wanted{0};
    std::atomic<Task> job{nullptr};
    std::atomic<void*> data{nullptr};
    int hired = 0;

    void begin(long items, int helpers, Task task, void* work) {
        const uint64_t next = (ticket.load() >> SHIFT) + 1;
        count = 0;  // nobody takes an item while the call is being described
        job = task, data = work, finished = 0, wanted = helpers;
        {
            std::lock_guard<std::mutex> lock(asleep);
            ticket = next << SHIFT;
            count = items;
        }
        workers.notify_all();
        try {
            for (; hired < helpers; ++hired) std::thread([this, rank = hired] { serve(rank); }).detach();
        } catch (const std::system_error&) {  // no more threads are to be had: fewer do the work
        }
    }

    void work_on(uint64_t call) {
        for (;;) {
            uint64_t mine = ticket.load();
            const long items = count.load();
            const Task task = job.load();
            void* const work = data.load();
            if (mine >> SHIFT != call || (long)(mine & ITEM) >= items) return;
            if (!ticket.compare_exchange_weak(mine, mine + 1)) continue;
            task(work, (long)(mine & ITEM));
            if (++finished == items) {
                std::lock_guard<std::mutex> lock(asleep);
                caller.notify_one();
            }
        }
    }

    void serve(int rank) {
        for (uint64_t last = 0;;) {
            const auto called = [&] { return ticket.load() >> SHIFT != last && rank < wanted.load(); };
            wait(called, workers);
            last = ticket.load() >> SHIFT;
            work_on(last);
        }
    }

    template <class Condition>
    void wait(Condition condition, std::condition_variable& bell) {
        for (int spin = 0; spin < SPINS; ++spin) {
            if (condition()) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(asleep);
        bell.wait(lock, condition);
    }

    static INLINE void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};
std::atomic<bool> Team::forked{false};

template <class Work>
static void in_parallel(long items, int threads, Work work) {
    Team::get().run(items, threads, [](void* data, long item) { (*(Work*)data)(item); }, &work);
}
