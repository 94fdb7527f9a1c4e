/* A stand-in for NVIDIA's management library, for machines without a GPU: nvidia-ml-py loads it in its place.
 * What it answers is in the file that STUB_NVML names: status, then current MHz, highest MHz, load, Celsius.
 * Status: what every question returns. 100: no GPU. 101: the start fails. 102: every question hangs. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_FOUND = 6, LOST = 15, NO_GPU = 100, NO_START = 101, HANG = 102 };

static int is_open;
static unsigned said[5];

static void listen(void) {
    FILE *file = fopen(getenv("STUB_NVML"), "r");
    for (int i = 0; i < 5; i++)
        if (!file || fscanf(file, "%u", &said[i]) != 1) said[i] = 0;
    if (file) fclose(file);
}

static int ask(int which, unsigned *answer) {
    for (listen(); said[0] == HANG; listen()) usleep(10000);
    if (said[0] == LOST) is_open = 0;  /* and so it stays until the next start */
    else if (!is_open) return UNINITIALIZED;
    if (answer) *answer = said[which];
    return said[0] < NO_GPU ? (int)said[0] : OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    is_open = 1;
    ask(0, NULL);
    if (said[0] == NO_START) { is_open = 0; return 18; }  /* driver and library of two versions */
    return OK;
}

int nvmlShutdown(void) { is_open = 0; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &is_open;
    ask(0, NULL);
    return index == 0 && said[0] != NO_GPU ? OK : NOT_FOUND;
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) { (void)device; (void)kind; return ask(1, mhz); }
int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *mhz) { (void)device; (void)kind; return ask(2, mhz); }
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) { (void)device; rates[1] = 0; return ask(3, rates); }
int nvmlDeviceGetTemperature(void *device, int kind, unsigned *celsius) { (void)device; (void)kind; return ask(4, celsius); }

const char *nvmlErrorString(int status) { (void)status; return "stub"; }
