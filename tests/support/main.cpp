// main() of every suite: runs the tests, then names what was skipped, so that a missing
// reference folder is seen. With FLOWMAP_REQUIRE_REFERENCE=1 a skip for missing data is
// a failure (tests/support/reference.h).
#include <gtest/gtest.h>

#include <iostream>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  const auto& unit = *::testing::UnitTest::GetInstance();
  if (unit.skipped_test_count() > 0)
    std::cout << "skipped tests: " << unit.skipped_test_count() << "\n";
  return result;
}
