/* The part of onnxruntime's C API that examples/predict.c uses, at the places it has in the API's table of
 * functions. The wheel on which the tests run brings the library without its header; the table only ever grows
 * at its end, so these places are those of every release. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 16

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;

enum { ORT_LOGGING_LEVEL_ERROR = 3 };
enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };
enum { OrtArenaAllocator = 1 };
enum { OrtMemTypeDefault = 0 };

typedef struct {
  void *places_0_to_1[2];
  const char *(*GetErrorMessage)(const OrtStatus *); /* 2 */
  OrtStatus *(*CreateEnv)(int, const char *, OrtEnv **);
  void *places_4_to_6[3];
  OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **); /* 7 */
  void *place_8;
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t,
                    const char *const *, size_t, OrtValue **); /* 9 */
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
  void *places_11_to_48[38];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int,
                                               OrtValue **); /* 49 */
  void *place_50;
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **); /* 51 */
  void *places_52_to_68[17];
  OrtStatus *(*CreateCpuMemoryInfo)(int, int, OrtMemoryInfo **); /* 69 */
} OrtApi;

typedef struct {
  const OrtApi *(*GetApi)(uint32_t);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);
