# ngx_moe: make help

# 1: with kernels for GPUs; simt: with the same run on the processor, for tests
CUDA     =
BUILD   ?= build$(if $(CUDA),/cuda-$(CUDA))
CC      ?= cc
OPT     ?= -O2
Q       = $(if $(V),,@)
SAN     ?=
J       ?= $(shell nproc)

WARN_GCC = $(if $(findstring clang,$(CC)),,-Wno-format-truncation)
WARN    = -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes \
          -Wpointer-arith $(WARN_GCC) -Wno-unused-parameter
CFLAGS_ = -std=c17 -g $(OPT) $(WARN) -D_GNU_SOURCE -Iengine -I. \
          -ffp-contract=off -fno-strict-aliasing -fvisibility=hidden \
          -pthread -MMD -MP $(if $(SAN),-fsanitize=$(SAN) \
          -fno-omit-frame-pointer -fno-sanitize-recover=all) \
          $(if $(CUDA),-DMOE_CUDA)
LDLIBS_ = $(if $(SAN),-fsanitize=$(SAN)) -pthread -ljansson -lcrypto \
          -lpcre2-8 -lutf8proc $(CUDA_LIBS) -lm -ldl

ENGINE  = $(filter-out engine/main.c,$(wildcard engine/*.c engine/*/*.c)) \
          $(wildcard kernels/*.c kernels/cpu/*.c)
KERNELS = $(if $(CUDA),$(wildcard kernels/cuda/*.cu))
# what does not know of CUDA is compiled once, for the engine without it
KNOWS   = kernels/cpu/kernels.c
SHARED  = $(if $(filter build/cuda-%,$(BUILD)),build,$(BUILD))
OBJS    = $(patsubst %.c,$(SHARED)/obj/%.o,$(filter-out $(KNOWS),$(ENGINE))) \
          $(KNOWS:%.c=$(BUILD)/obj/%.o) $(KERNELS:%.cu=$(BUILD)/obj/%.o)
LIB     = $(BUILD)/libmoe.a
CUDA_UNITS = test_cuda test_cuda_rows test_cuda_model test_ep_nccl \
             test_serve_nccl
TSAN_UNITS = test_jobq test_kernels test_attention test_rank test_ep
UNITS   = $(patsubst t/engine/%.c,$(BUILD)/t/%,$(filter-out \
              $(if $(CUDA),,$(CUDA_UNITS:%=t/engine/%.c)), \
              $(wildcard t/engine/test_*.c)))


.PHONY: help engine mpi cuda-compile cuda-test module unit-build unit emulate \
        sanitize fuzz clang deps-build deps-mpi deps-demo deps-test demo \
        demo-stop test test-nginx test-live test-full install tokenizers clean

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: make engine        build/moe-engine
engine: $(BUILD)/moe-engine

$(BUILD)/moe-engine: $(BUILD)/obj/engine/main.o $(LIB)
	@echo "  LD   $@"
	$(Q)$(CC) -o $@ $^ $(LDFLAGS) $(LDLIBS_)

#: make mpi           build/moe_mpi.so, for ranks on several hosts (MPICC=mpicc)
MPICC ?= mpicc
MPI    = $(BUILD)/moe_mpi.so

mpi: $(MPI)

$(MPI): engine/ep/mpi/plugin.c engine/ep/link.h
	@mkdir -p $(@D)
	@echo "  MPI  $@"
	$(Q)$(MPICC) -std=c17 -g $(OPT) $(WARN) -D_GNU_SOURCE -Iengine \
	    -fvisibility=hidden -fPIC -shared -o $@ $<

$(LIB): $(OBJS)
	@echo "  AR   $@"
	@rm -f $@
	$(Q)ar rcs $@ $^

$(SHARED)/obj/kernels/cpu/%_avx2.o: ARCH = -mavx2 -mfma -mf16c
$(SHARED)/obj/kernels/cpu/%_avx512.o: ARCH = -mavx512f -mavx512bw \
    -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c
$(SHARED)/obj/kernels/cpu/bf16_avx512.o: CFLAGS_ += -mavx512bf16

# no fuzzer reaches the kernels, whose vector code compiles slowly under it
PLAIN = $(if $(findstring fuzzer,$(CFLAGS)),$(filter kernels/%,$<))

define compile
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CFLAGS_) $(ARCH) $(CFLAGS) $(if $(PLAIN),-fno-sanitize=all) \
	    -c -o $@ $<
endef

$(BUILD)/obj/%.o: %.c
	$(compile)

ifneq ($(SHARED),$(BUILD))
$(SHARED)/obj/%.o: %.c
	$(compile)
endif

#: make CUDA=1 engine   build/cuda-1/moe-engine, with kernels for GPUs
CUDA_ARCH ?= 80 90a 100
NVCC      ?= $(shell tools/cuda/nvcc.sh)
CUDA_LIBS  = $(if $(filter 1,$(CUDA)),$(shell tools/cuda/nvcc.sh -l))

# sums are as kernels/cuda/device.cuh says: nothing contracted, all exact
NVCCFLAGS_ = -std=c++20 $(OPT) -lineinfo --fmad=false --prec-div=true \
             --prec-sqrt=true --ftz=false -Werror all-warnings -Iengine -I. \
             $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$a,code=sm_$a) \
             -Xcompiler -Wall,-Wextra,-Werror,-Wno-unused-parameter \
             -Xcompiler -fno-threadsafe-statics,-fno-exceptions,-fno-rtti

$(BUILD)/obj/kernels/cuda/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	@echo "  CU   $@"
ifeq ($(CUDA),simt)
	$(Q)$(CXX) -x c++ -std=c++20 -g $(OPT) -Wall -Wextra -Werror \
	    -Wno-unused-parameter -Wno-unknown-pragmas -Wno-clobbered \
	    -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti \
	    -Iengine -I. -MMD -MP -c -o $@ $<
else
	$(Q)$(NVCC) $(NVCCFLAGS_) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c \
	    -o $@ $<
endif

#: make cuda-compile  all of it for CUDA_ARCH, where nvcc is to be had
cuda-compile:
	@mkdir -p build
	@if tools/cuda/nvcc.sh -i; then \
	    $(MAKE) CUDA=1 engine $(CUDA_UNITS:%=build/cuda-1/t/%) \
	        build/cuda-1/bench-gpu build/cuda-1/nccl-header; \
	else \
	    echo "cuda-compile: 1 skipped: no CUDA compiler to be had"; \
	fi

# what engine/ep/nccl.h says beside NCCL's own header
$(BUILD)/nccl-header: t/nccl/header.c engine/ep/nccl.h tools/cuda/nccl.txt
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(NVCC) -Iengine -I"$$(tools/cuda/nvcc.sh -n)" \
	    -Xcompiler -std=c17,-Wall,-Wextra,-Werror -c -o $@ $<

#: make cuda-test       the simple kernels, run on the processor
cuda-test:
	$(MAKE) CUDA=simt unit \
	    UNITS="$(CUDA_UNITS:%=build/cuda-simt/t/%)"

#: make module        build/ngx_http_moe_module.so, against NGINX_SRC
NGINX_SRC ?= /usr/share/nginx/src
NGINX_VER  = $(shell sed -n 's/^.define NGINX_VERSION *"\(.*\)"/\1/p' \
                 $(NGINX_SRC)/src/core/nginx.h)
NGINX_DIR  = $(BUILD)/nginx-$(NGINX_VER)
MODULE     = $(NGINX_DIR)/objs/ngx_http_moe_module.so
MODULE_SRC = $(wildcard ngx_http_moe*.[ch] engine/jobq*.[ch])

module: $(MODULE)
	@cmp -s $(MODULE) $(BUILD)/ngx_http_moe_module.so \
	    || cp $(MODULE) $(BUILD)/ngx_http_moe_module.so

$(MODULE): $(NGINX_DIR)/objs/Makefile $(MODULE_SRC)
	@$(MAKE) -s -k -C $(NGINX_DIR) -f objs/Makefile modules \
	    >$(NGINX_DIR)/build.log 2>&1 \
	    || { cat $(NGINX_DIR)/build.log; exit 1; }
	@touch $@

$(NGINX_DIR)/objs/Makefile: config tools/configure-module.sh \
    $(wildcard ngx_http_moe*.c engine/jobq*.c)
	@test -n "$(NGINX_VER)" \
	    || { echo "no nginx source in $(NGINX_SRC)"; exit 1; }
	@tools/configure-module.sh $(NGINX_SRC) $(NGINX_DIR) --with-cc=$(CC) \
	    --with-cc-opt="$(OPT) $(MODULE_CFLAGS)" \
	    --with-ld-opt="$(MODULE_LDFLAGS)"

#: make unit          C unit tests
$(BUILD)/t/%: t/engine/%.c $(LIB)
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -MF $@.d -o $@ $< $(LIB) $(LDFLAGS) \
	    -lcmocka $(LDLIBS_)

# what stands for NCCL in tests: as it should be, too old, with a call missing
NCCL_STUBS = $(foreach s,good old short,$(BUILD)/t/nccl/$s/libnccl.so.2)

$(BUILD)/t/nccl/old/libnccl.so.2: STUB = -DMOE_STUB_VERSION=21705
$(BUILD)/t/nccl/short/libnccl.so.2: STUB = -DMOE_STUB_SHORT

$(NCCL_STUBS): t/nccl/stub.c engine/ep/nccl.h t/cuda/stream.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) -std=c17 -g $(OPT) $(WARN) -D_GNU_SOURCE -Iengine -I. $(STUB) \
	    -fvisibility=hidden -fPIC -shared -o $@ $<

$(BUILD)/t/test_ep_nccl $(BUILD)/t/test_serve_nccl: | $(NCCL_STUBS)

# an engine on strings, for the tests of the module

$(BUILD)/t/moe-puppet: t/tools/moe-puppet.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_) $(CFLAGS) -o $@ $< $(LIB) $(LDFLAGS) $(LDLIBS_)

# where there is no MPI, its tests say that they were skipped
MPI_HERE = $(if $(shell command -v $(MPICC) 2>/dev/null),$(MPI))

unit-build: $(UNITS) $(MPI_HERE)

# the vocabularies that test_tokenizer compares us with the reference on

tokenizers:
	@tools/tokenizers/fetch.sh

unit: tokenizers $(UNITS) $(MPI_HERE)
	@tools/units.sh $(UNITS)

# AVX-512 in C and AVX2, so that it is tested where no processor has it; loops
# stay loops, which compiles in seconds

EMULATED = test_kernels test_attention test_quant test_bf16 test_packed \
           test_golden
EMULATE_OBJS = $(patsubst kernels/cpu/%.c,$(BUILD)/emulate/%.o, \
                   $(wildcard kernels/cpu/*_avx512.c)) $(BUILD)/emulate/sets.o

$(BUILD)/emulate/%_avx512.o: kernels/cpu/%_avx512.c
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CFLAGS_) -mavx2 -mfma -mf16c -Wno-psabi -DUNROLL= \
	    -fsanitize=alignment -fno-sanitize-recover=all \
	    -include t/emulate/avx512.h $(CFLAGS) -c -o $@ $<

$(BUILD)/emulate/sets.o: t/emulate/sets.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -c -o $@ $<

$(BUILD)/emulate/test_%: t/engine/test_%.c $(EMULATE_OBJS) $(LIB)
	@echo "  CC   $@"
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -fsanitize=alignment -MF $@.d -o $@ $< \
	    $(EMULATE_OBJS) $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS_)

#: make emulate       tests of the kernels with AVX-512 emulated (SIMDe)
emulate: $(EMULATED:%=$(BUILD)/emulate/%)
	@tools/units.sh $^

#: make sanitize      the unit tests under ASan and UBSan, and under TSan
ASAN_UNITS = $(patsubst $(BUILD)/%,$(BUILD)/asan/%,$(UNITS))
ASAN_SOME  = $(filter-out %_mpi,$(ASAN_UNITS))

sanitize:
	$(MAKE) -j$(J) unit-build SAN=address,undefined BUILD=$(BUILD)/asan \
	    UNITS="$(ASAN_SOME)"
	$(MAKE) unit SAN=address,undefined BUILD=$(BUILD)/asan \
	    UNITS="$(ASAN_SOME)"
	$(MAKE) unit SAN=thread BUILD=$(BUILD)/tsan CC=clang \
	    OPT=-O1 UNITS="$(patsubst %,$(BUILD)/tsan/t/%,$(TSAN_UNITS))"

#: make fuzz          every libFuzzer target for FUZZ_SECONDS, 0: fixed runs
FUZZ_SECONDS ?= 0
FUZZERS = $(patsubst t/fuzz/%.c,$(BUILD)/fuzz/bin/%,$(wildcard t/fuzz/fuzz_*.c))

$(BUILD)/bin/%: t/fuzz/%.c $(LIB)
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -MF $@.d -fsanitize=fuzzer -o $@ $< $(LIB) \
	    $(LDFLAGS) $(LDLIBS_)

fuzz:
	$(MAKE) -j$(J) $(FUZZERS) CC=clang OPT=-O1 BUILD=$(BUILD)/fuzz \
	    SAN=address,undefined CFLAGS=-fsanitize=fuzzer-no-link
	tools/fuzz.sh $(FUZZ_SECONDS) $(FUZZERS)

#: make clang         everything once more with clang
clang:
	$(MAKE) -j$(J) engine module unit-build CC=clang BUILD=$(BUILD)/clang

#: make deps-test     the packages that the tests need (apt)
deps-build deps-mpi deps-demo deps-test:
	@tools/deps.sh $(@:deps-%=%)

#: make demo          install, build, start and ask: http://127.0.0.1:8080
demo: deps-demo
	@$(MAKE) -s -j$(J) engine module
	@tools/demo.sh start

#: make demo-stop     stop what make demo started
demo-stop:
	@tools/demo.sh stop

#: make test-nginx    Test::Nginx suites on Debian's nginx, 1.26 and 1.30
SUITES ?= system trixie sid

test-nginx: engine module $(BUILD)/t/moe-puppet
	@tools/test-suites.sh $(SUITES)

#: make test-live     streams under reload, upgrade, slow clients, kills
test-live: engine module $(BUILD)/t/moe-puppet
	@tools/test-nginx.sh -j system $(sort $(wildcard t/live-*.t))

#: make test-full     make test, and the suites in all modes
test-full: test
	@MOE_PROPERTY_FIRST=1000 MOE_PROPERTY_WORLDS=2000 \
	    $(BUILD)/t/test_property
	@for t in test_ep test_ep_mpi; do \
	    echo "== $$t"; MOE_MATRIX=1 $(BUILD)/t/$$t || exit 1; \
	done
	@for t in test_ep_nccl test_serve_nccl; do \
	    echo "== $$t"; MOE_MATRIX=1 $(BUILD)/cuda-simt/t/$$t || exit 1; \
	done
	@for t in test_serve_ep test_serve_mpi; do \
	    echo "== $$t"; MOE_KILLS=50 $(BUILD)/t/$$t || exit 1; \
	done
	@$(MAKE) unit SAN=address,undefined BUILD=$(BUILD)/asan \
	    UNITS="$(filter %_mpi,$(ASAN_UNITS))"
	@$(MAKE) fuzz FUZZ_SECONDS=120
	@tools/test-source.sh
	@tools/test-suites.sh -f $(SUITES)

#: make test          all tests of a quarter of an hour
test: deps-test
	@$(MAKE) -j$(J) engine module unit-build
	@$(MAKE) -j$(J) cuda-compile
	@$(MAKE) cuda-test
	@$(MAKE) clang unit emulate sanitize fuzz test-nginx test-live

#: make bench-sse     what an SSE event costs, beside the bare ceiling
bench-sse: module $(BUILD)/t/moe-puppet
	@tools/bench/sse.sh

#: make bench-surge   what becomes of many times more requests than can be done
bench-surge: module engine
	@tools/bench/surge.sh

#: make bench-exchange  what the exchange between ranks costs a layer
$(BUILD)/bench-exchange: tools/bench/exchange.c $(LIB)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -o $@ $< $(LIB) $(LDFLAGS) $(LDLIBS_)

bench-exchange: $(BUILD)/bench-exchange
	@$(BUILD)/bench-exchange

#: make bench-sampler  what drawing a token costs, beside finding the largest
$(BUILD)/bench-sampler: tools/bench/sampler.c tools/bench/batch.h $(LIB)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -Itools/bench -o $@ $< $(LIB) $(LDFLAGS) \
	    $(LDLIBS_)

bench-sampler: $(BUILD)/bench-sampler
	@$(BUILD)/bench-sampler

# what tools/gpu_check.sh measures with, besides the engine
$(BUILD)/bench-gpu: tools/bench/gpu.c $(LIB)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -o $@ $< $(LIB) $(LDFLAGS) $(LDLIBS_)

$(BUILD)/shapes: tools/bench/shapes.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -o $@ $< -lm

#: make bench-ep      replicas, expert-parallel ranks and one engine compared
$(BUILD)/bench-ep: tools/bench/ep.c tools/bench/batch.h tools/bench/proc.h \
    $(LIB)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -Itools/bench -o $@ $< $(LIB) $(LDFLAGS) \
	    $(LDLIBS_)

bench-ep: engine $(BUILD)/bench-ep
	@tools/bench/ep.sh

#: make bench-overlap whole steps and steps in halves, over MPI between two hosts
#:                    that are network namespaces with a slow wire (root)
$(BUILD)/bench-overlap: tools/bench/overlap.c tools/bench/batch.h $(LIB)
	$(Q)$(CC) $(CFLAGS_) $(CFLAGS) -Itools/bench -o $@ $< $(LIB) $(LDFLAGS) \
	    $(LDLIBS_)

bench-overlap: engine mpi $(BUILD)/bench-overlap
	@tools/bench/ep.sh overlap

#: make install       engine, module, unit and configuration, what was built
#:                    by make mpi too (DESTDIR, PREFIX)
PREFIX  ?= /usr/local
MODULES ?= /usr/lib/nginx/modules

install: engine module
	install -D -m 755 $(BUILD)/moe-engine $(DESTDIR)$(PREFIX)/bin/moe-engine
	if [ -f $(MPI) ]; then \
	    install -D -m 644 $(MPI) $(DESTDIR)$(PREFIX)/lib/ngx_moe/moe_mpi.so; \
	fi
	install -D -m 644 $(BUILD)/ngx_http_moe_module.so \
	    $(DESTDIR)$(MODULES)/ngx_http_moe_module.so
	install -D -m 644 conf/moe_errors.conf \
	    $(DESTDIR)/etc/nginx/moe_errors.conf
	install -D -m 644 conf/nginx.conf \
	    $(DESTDIR)$(PREFIX)/share/doc/ngx_moe/nginx.conf
	sed 's,/usr/local/bin/,$(PREFIX)/bin/,' conf/moe-engine@.service \
	    >$(BUILD)/moe-engine@.service
	install -D -m 644 $(BUILD)/moe-engine@.service \
	    $(DESTDIR)/etc/systemd/system/moe-engine@.service

#: make clean
clean:
	rm -rf $(BUILD)

-include $(OBJS:.o=.d) $(BUILD)/obj/engine/main.d $(UNITS:=.d) \
    $(EMULATE_OBJS:.o=.d) $(EMULATED:%=$(BUILD)/emulate/%.d)
