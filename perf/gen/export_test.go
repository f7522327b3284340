package gen

// Checksums is for the tests outside of the package.
var Checksums = checksums
